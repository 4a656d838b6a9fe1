"""Learning new classes one task after another: prototype distillation and its peers."""
