"""Classes that are taught on the device, beside the model's own."""
