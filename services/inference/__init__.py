"""Serves published policies over gRPC with onnxruntime."""
