"""Estimators of the gradient of an expectation: their names and numbers. kernels/cpu/gradients.py has what they are."""

ESTIMATORS = (
    "score",
    "score_minus_one",
    "leave_one_out",
    "control_variate",
    "reparameterisation",
    "path",
    "square",
    "square_f",
)
SCORE, MINUS_ONE, LEAVE_ONE_OUT, CONTROL, REPARAMETERISATION, PATH, SQUARE, SQUARE_F = range(len(ESTIMATORS))
