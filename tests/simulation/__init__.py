"""Random histories of the real rules and supervisors over the fake engine, in virtual time, all from one seed."""
