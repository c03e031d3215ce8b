"""Rollouts for clients of the Open Inference Protocol, version 2, its extension of binary tensors included.

The initial condition is the tensor `initial_condition` (X..., C), or a batch of them, with `static` beside it where
the family has static fields; without one, the states are those that the parameter `initial_condition` asks for.
Parameters of a request are the fields of a `RolloutRequest`. The protocol knows texts, numbers and truth values only:
what is a list or an object is given as its JSON text. The answer has the tensors of the service's safetensors, and
what is said beside them as JSON text in the parameter `header`.

The protocol: https://github.com/kserve/open-inference-protocol
"""

import asyncio
import json
import math
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Header, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect

from ups_server import __version__
from ups_server.api.answers import JSON as JSON_FORMAT
from ups_server.api.answers import answer_bytes, collect, encode
from ups_server.api.body import JSON, MAX_TEXT, check_names, received
from ups_server.api.problems import documented
from ups_server.api.routes.rollouts import outline, prepared, while_connected
from ups_server.api.routes.status import readyz
from ups_server.api.service import CurrentService, Service
from ups_server.catalog import ModelCard
from ups_server.data.formats.written import plain
from ups_server.errors import UserError
from ups_server.pde import families
from ups_server.rollout.initial import from_lists
from ups_server.rollout.plan import Plan
from ups_server.specs import RolloutRequest, Spec, invalid_request
from ups_server.tensors import Arrays, from_safetensors

router = APIRouter(prefix="/v2", tags=["inference"])

OCTETS = "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header: bytes of the JSON before the tensors."""
DTYPES = {
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
}
"""Names of the protocol, and NumPy's."""
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
TEXTS = ("family", "equation", "method")
"""Fields of a request that are texts themselves."""
ONE_BINARY, ALL_BINARY, SIZE = "binary_data", "binary_data_output", "binary_data_size"
"""Parameters of the binary extension: of an output, of the request, of a tensor whose numbers follow the JSON."""

Parameters = dict[str, bool | int | float | str]
AxisLength = Annotated[int, Field(ge=0, lt=2**40)]


class InputTensor(Spec):
    """A tensor of a request: its numbers are in `data`, or behind the JSON."""

    name: Literal["initial_condition", "static"]
    shape: tuple[AxisLength, ...] = Field(max_length=8)
    datatype: str = Field(max_length=16, description="FP16, FP32, FP64, or a kind of integer.", examples=["FP32"])
    parameters: Parameters = Field(default_factory=dict, description="`binary_data_size`: bytes behind the JSON.")
    data: list[Any] | None = Field(default=None, description="In row-major order, flat or nested.")


class WantedTensor(Spec):
    """A tensor of the answer that is asked for."""

    name: str = Field(max_length=128)
    parameters: Parameters = Field(default_factory=dict, description="`binary_data`: behind the JSON?")


class InferenceRequest(Spec):
    """A rollout by the model of the address."""

    id: str | None = Field(default=None, max_length=128, description="Repeated in the answer.")
    parameters: Parameters = Field(
        default_factory=dict,
        description="Fields of a RolloutRequest; what is a list or an object as its JSON text. `binary_data_output`: "
        "shall all tensors of the answer follow its JSON?",
    )
    inputs: tuple[InputTensor, ...] = Field(max_length=2, description="`initial_condition`, and `static`.")
    outputs: tuple[WantedTensor, ...] | None = Field(default=None, max_length=16, description="Default: all.")

    def binary(self, name: str) -> bool:
        """Is this output to follow the JSON?"""
        whole = bool(self.parameters.get(ALL_BINARY, False))
        own = {wanted.name: wanted.parameters.get(ONE_BINARY, whole) for wanted in self.outputs or ()}
        return bool(own.get(name, whole))

    @property
    def all_binary(self) -> bool:
        """Has the answer no number in its JSON?"""
        if self.outputs is None:
            return bool(self.parameters.get(ALL_BINARY, False))
        return all(self.binary(wanted.name) for wanted in self.outputs)


class OutputTensor(BaseModel):
    """A tensor of the answer. States that ended early are null, or NaN where the numbers follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, int] | None = Field(default=None, description="`binary_data_size`: bytes behind the JSON.")
    data: list[Any] | None = None


class InferenceAnswer(BaseModel):
    """`data` ([B,] T, X..., C) in physical units, `times`, and the coordinates `x`, `y`, `z`."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, str] = Field(description="`header`: what a RolloutAnswer says beside its arrays, as JSON.")
    outputs: list[OutputTensor]


class ServerMetadata(BaseModel):
    """Which server this is."""

    name: str = "ups_server"
    version: str = __version__
    extensions: list[str] = ["binary_tensor_data"]


class TensorMetadata(BaseModel):
    """A tensor of a model; -1: any length."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """Tensors of a model. Their shapes are those of its family with most axes; fewer have fewer, a batch one more."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Live(BaseModel):
    """The API process answers."""

    live: bool = True


class Ready(BaseModel):
    """Are requests answered?"""

    name: str | None = Field(default=None, description="Of the model, where one was asked for.")
    ready: bool


NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Ready, "description": "Not ready."}}


@router.get("")
def get_server() -> ServerMetadata:
    """Name, version and extensions of this server."""
    return ServerMetadata()


@router.get("/health/live")
async def live() -> Live:
    """200 as long as the API process answers."""
    return Live()


@router.get("/health/ready", responses=NOT_READY, response_model_exclude_none=True)
async def ready(service: CurrentService, response: Response) -> Ready:
    """As `/readyz`."""
    return Ready(ready=(await readyz(service, response)).status == "ready")


@router.get("/models/{model_id}", responses=documented(404, 422))
def get_model(model_id: str, service: CurrentService) -> ModelMetadata:
    """Tensors of a model; which families it knows, and their coefficients, is in `/v1/models`."""
    card = service.catalog.model(model_id)
    state = [-1] * (1 + _axes(card))
    return ModelMetadata(
        name=card.id,
        versions=[card.version],
        platform="ups_server",
        inputs=[TensorMetadata(name="initial_condition", datatype="FP32", shape=state)],
        outputs=[
            TensorMetadata(name="data", datatype="FP32", shape=[-1, *state]),
            TensorMetadata(name="times", datatype="FP64", shape=[-1]),
        ],
    )


def _axes(card: ModelCard) -> int:
    """Of its family with most."""
    return max((families()[name].ndim for name in card.families if name in families()), default=1)


@router.get("/models/{model_id}/ready", responses={**NOT_READY, **documented(404, 422)})
async def model_ready(model_id: str, service: CurrentService, response: Response) -> Ready:
    """200 where the model can be used; one that nobody used lately is loaded by its next request."""
    card = await asyncio.to_thread(service.catalog.model, model_id)
    return Ready(name=card.id, ready=(await readyz(service, response)).status == "ready")


EXAMPLE = {
    "parameters": {"family": "burgers", "coefficients": '{"nu": 0.001}', "n_steps": 20},
    "inputs": [{"name": "initial_condition", "shape": [8], "datatype": "FP32", "data": [0, 1, 2, 1, 0, -1, -2, -1]}],
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
LENGTH = {"description": "Bytes of the JSON before the tensors.", "schema": {"type": "integer"}}


@router.post(
    "/models/{model_id}/infer",
    response_model=None,
    responses={
        200: {
            "model": InferenceAnswer,
            "description": "JSON, with the tensors behind it where they were asked for so.",
            "content": {OCTETS: BINARY},
            "headers": {HEADER_LENGTH: LENGTH},
        },
        **documented(400, 404, 413, 422, 429, 503),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "JSON; or the same with the numbers of its tensors behind it, one after another.",
            "content": {
                JSON: {"schema": {"$ref": "#/components/schemas/InferenceRequest"}, "example": EXAMPLE},
                OCTETS: BINARY,
            },
        }
    },
)
async def infer(
    model_id: str,
    request: Request,
    service: CurrentService,
    inference_header_content_length: Annotated[
        int | None, Header(ge=0, description="Bytes of the JSON before the tensors; default: there are none.")
    ] = None,
) -> Response:
    """A rollout: from the tensor `initial_condition` to the tensor `data`."""
    await asyncio.to_thread(service.catalog.model, model_id)
    asked: list[InferenceRequest] = []

    def read(body: bytes) -> tuple[RolloutRequest, Arrays | None]:
        text, arrays = split(body, inference_header_content_length)
        asked.append(text)
        return rollout_request(model_id, text.parameters), arrays

    async with received(request, service, partial(outline, service), read) as found:
        todo = await asyncio.to_thread(prepared, found, _form(asked[0]), service)
    del found
    try:
        return await while_connected(request, _answer(todo, asked[0], service))
    except ClientDisconnect:
        return Response(status_code=499)


def _form(asked: InferenceRequest) -> str:
    """What the answer takes memory as."""
    return "safetensors" if asked.all_binary else JSON_FORMAT


def split(body: bytes, header_length: int | None) -> tuple[InferenceRequest, Arrays | None]:
    """The JSON of a body, and its tensors; None where it has none.

    Args:
        header_length: bytes of the JSON; None: the whole body.

    Raises:
        UserError: ``invalid_json``, ``invalid_request``, ``invalid_body``, ``body_too_large``, ``wrong_dtype``,
            ``wrong_shape``.
    """
    end = len(body) if header_length is None else header_length
    if end > len(body):
        raise _invalid("the JSON is longer than the body", end, len(body))
    if end > MAX_TEXT:
        raise UserError(
            "body_too_large",
            "the JSON of the request is too long",
            got=end,
            expected=f"at most {MAX_TEXT} bytes",
            hint="send the numbers of its tensors behind it, as the extension of binary tensors says",
        )
    text = body[:end]
    check_names(text)
    try:
        asked = InferenceRequest.model_validate_json(text)
    except ValidationError as error:
        raise invalid_request(error) from None
    if len({tensor.name for tensor in asked.inputs}) < len(asked.inputs):
        raise _invalid("a tensor is given twice", [tensor.name for tensor in asked.inputs], "each once")
    arrays, behind = Arrays(), memoryview(body)[end:]
    for tensor in asked.inputs:
        size = tensor.parameters.get(SIZE)
        if size is None:
            arrays[tensor.name] = _listed(tensor)
            continue
        if isinstance(size, bool | str | float) or not 0 <= size <= len(behind) or tensor.data is not None:
            raise _invalid(f"the numbers of {tensor.name} are not where they should be", size, len(behind))
        arrays[tensor.name] = _unpacked(tensor, behind[:size])
        behind = behind[size:]
    if len(behind):
        raise _invalid("bytes follow that belong to no tensor", len(behind), 0)
    return asked, arrays or None


def _listed(tensor: InputTensor) -> NDArray[Any]:
    """The numbers of `data`."""
    if tensor.data is None:
        raise _invalid(f"{tensor.name} has no numbers", None, f"data, or the parameter {SIZE}")
    _dtype(tensor)
    values = from_lists(tensor.data, tensor.name)
    if values.size != math.prod(tensor.shape):
        raise _wrong_shape(tensor, values.size)
    return values.reshape(tensor.shape)


def _unpacked(tensor: InputTensor, data: memoryview) -> NDArray[Any]:
    """The same from bytes, which are not copied."""
    dtype = _dtype(tensor)
    if len(data) != math.prod(tensor.shape) * dtype.itemsize:
        raise _wrong_shape(tensor, f"{len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(tensor.shape)


def _dtype(tensor: InputTensor) -> np.dtype[Any]:
    """Raises UserError ``wrong_dtype``."""
    if tensor.datatype not in DTYPES:
        raise UserError("wrong_dtype", f"{tensor.name} must hold real numbers", got=tensor.datatype, expected=[*DTYPES])
    return np.dtype(DTYPES[tensor.datatype])


def _wrong_shape(tensor: InputTensor, got: Any) -> UserError:
    return UserError("wrong_shape", f"the numbers of {tensor.name} do not fit", got=got, expected=list(tensor.shape))


def _invalid(message: str, got: Any, expected: Any) -> UserError:
    return UserError("invalid_body", message, got=got, expected=expected)


def rollout_request(model_id: str, parameters: Parameters) -> RolloutRequest:
    """The rollout that parameters ask for.

    Raises:
        UserError: ``invalid_request``, ``invalid_json``.
    """
    if "model" in parameters:
        raise UserError("invalid_request", "the address names the model already", got=parameters["model"])
    document: dict[str, Any] = {"model": model_id}
    for name, value in parameters.items():
        if name == ALL_BINARY:
            continue
        document[name] = value if name in TEXTS or not isinstance(value, str) else _value(name, value)
    return RolloutRequest.from_json(json.dumps(document))


def _value(name: str, text: str) -> Any:
    """What the JSON text of a parameter says."""
    check_names(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError("invalid_json", f"the parameter {name} is not valid JSON", got=str(error)) from None


async def _answer(todo: Plan, asked: InferenceRequest, service: Service) -> Response:
    async with service.answers.hold(answer_bytes(todo, _form(asked))):
        answer = await collect(todo, service.engine, service.settings)
        content = await asyncio.to_thread(encode, answer, "safetensors")
        del answer
        return await asyncio.to_thread(_written, content, asked, todo.card)


def _written(content: bytes, asked: InferenceRequest, card: ModelCard) -> Response:
    """An answer in safetensors in the form of the protocol.

    Raises:
        UserError: ``unknown_output``.
    """
    arrays, texts = from_safetensors(content)
    names = [wanted.name for wanted in asked.outputs] if asked.outputs is not None else [*arrays]
    unknown = [name for name in names if name not in arrays]
    if unknown:
        raise UserError("unknown_output", "the answer has no such tensor", got=unknown, expected=[*arrays])
    outputs, behind = [], []
    for name in names:
        values = arrays[name]
        output: dict[str, Any] = {"name": name, "shape": list(values.shape), "datatype": NAMES[values.dtype]}
        if asked.binary(name):
            output["parameters"] = {SIZE: values.nbytes}
            behind.append(np.ascontiguousarray(values).data.cast("B"))
        else:
            output["data"] = plain(values.reshape(-1))
        outputs.append(output)
    document = {"model_name": card.id, "model_version": card.version, "parameters": texts, "outputs": outputs}
    if asked.id is not None:
        document["id"] = asked.id
    text = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    if not behind:
        return Response(text, media_type=JSON)
    return Response(b"".join([text, *behind]), media_type=OCTETS, headers={HEADER_LENGTH: str(len(text))})
