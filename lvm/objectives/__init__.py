"""The equations of each model over a kernel set: one file a family."""
