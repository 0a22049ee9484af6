"""Single-trial responses: GLMsingle's method, exact timing, at the machine's speed."""
