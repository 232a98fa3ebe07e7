"""The Open Inference Protocol, version 2, so that Triton's clients can ask policies as models."""
