"""A policy for MLServer."""

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Policy(MLModel):
    async def load(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload):
        observations = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        (values,) = self.session.run(["q_values"], {"observation": observations})
        output = NumpyCodec.encode_output("q", values)
        return InferenceResponse(model_name=self.name, outputs=[output])
