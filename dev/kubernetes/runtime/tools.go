//go:build tools

// Package runtime names the container runtime that is built here: Debian's containerd loses the end of a log that was
// written just before its container ended.
package runtime

import (
	_ "github.com/containerd/containerd/cmd/containerd"
	_ "github.com/containerd/containerd/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/cmd/ctr"
)
