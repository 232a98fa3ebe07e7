"""A policy for Triton's Python backend."""

import os

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(
            os.environ["POLICY"], options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests):
        parts = [pb_utils.get_input_tensor_by_name(each, "obs").as_numpy() for each in requests]
        (values,) = self.session.run(["q_values"], {"observation": np.concatenate(parts)})
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("q", part)])
            for part in np.split(values, ends)
        ]
