"""Datasets by REST: compile, list, look, download."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pyarrow.parquet as pq
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.artifact import ArtifactError, verify
from projects.api.bodies import NothingBody
from projects.bodies import parse_body
from projects.downloads import CONTENT_TYPES, Sink, streamed
from projects.errors import Conflict, Invalid, NotFound
from projects.idempotency import idempotent
from projects.models import Project
from projects.rest import ErrorSerializer, Paging, key_of, list_of, read_query
from projects.services import Actor
from training.api.answers import CompilationSerializer, DatasetSerializer, PreviewSerializer
from training.api.bodies import DatasetBody
from training.models import Compilation, Dataset
from training.services.compilations import cancel_compilation, request_compilation
from training.services.compiler import compile_dataset, preview_dataset
from training.services.data.shards import shard_paths
from training.tasks import ring, tick_compilations

PARTS = ("train", "heldout")
_BLOCK = 1 << 16


class CompileDataset(APIView):
    """Compile feedback into an immutable dataset. The same filters and cut-off give the same digest."""

    scopes = {"POST": "manage"}
    long_methods = frozenset({"POST"})

    @extend_schema(
        operation_id="compile_dataset",
        request=DatasetBody,
        responses={
            201: DatasetSerializer,
            200: PreviewSerializer,
            202: CompilationSerializer,
            422: ErrorSerializer,
        },
    )
    @idempotent(atomic=False)
    def post(self, request: Request) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(DatasetBody, request.data)
        filters = body.filters.to_json()
        if body.background:
            compilation = request_compilation(
                project=key.project,
                kind="preview" if body.dry_run else "build",
                format=body.format,
                filters=filters,
                cutoff=body.cutoff,
                actor=Actor(api_key=key),
            )
            return queued(compilation)
        if body.dry_run:
            preview = preview_dataset(
                project=key.project, format=body.format, filters=filters, cutoff=body.cutoff
            )
            return Response(PreviewSerializer(preview).data)
        dataset = compile_dataset(
            project=key.project,
            format=body.format,
            filters=filters,
            cutoff=body.cutoff,
            actor=Actor(api_key=key),
        )
        return Response(DatasetSerializer(dataset).data, status=201)


def queued(compilation: Compilation) -> Response:
    """What a worker will do."""
    ring(tick_compilations)
    return Response(CompilationSerializer(compilation).data, status=202)


class ShowCompilation(APIView):
    """How far a compilation in the background is; of a preview, in the end, what it found."""

    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="show_compilation", responses={200: CompilationSerializer, 404: ErrorSerializer}
    )
    def get(self, request: Request, compilation_id: UUID) -> Response:
        read_query(request)
        found = find_compilation(key_of(request).project, compilation_id)
        return Response(CompilationSerializer(found).data)


class CancelCompilation(APIView):
    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="cancel_compilation",
        request=NothingBody,
        responses={200: CompilationSerializer, 404: ErrorSerializer, 409: ErrorSerializer},
    )
    @idempotent()
    def post(self, request: Request, compilation_id: UUID) -> Response:
        read_query(request)
        parse_body(NothingBody, request.data)
        found = cancel_compilation(find_compilation(key_of(request).project, compilation_id))
        return Response(CompilationSerializer(found).data)


class ListDatasets(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_datasets",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=list_of(DatasetSerializer, "Dataset"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        paging = Paging.read(read_query(request, "limit", "cursor"), name="datasets", key=key)
        rows = paging.rows(Dataset.objects.filter(project=key.project_id), "number")
        return Response(
            paging.answer(rows, "number", as_data=lambda items: DatasetSerializer(items, many=True).data)
        )


class ShowDataset(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(operation_id="show_dataset", responses={200: DatasetSerializer, 404: ErrorSerializer})
    def get(self, request: Request, number: int) -> Response:
        read_query(request)
        return Response(DatasetSerializer(find_dataset(key_of(request).project, number)).data)


class DownloadDataset(APIView):
    """The rows of one part, as they are trained on."""

    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="download_dataset",
        parameters=[
            OpenApiParameter("as", enum=["jsonl", "parquet"], default="jsonl"),
            OpenApiParameter("part", enum=list(PARTS), default="train"),
        ],
        responses={
            (200, CONTENT_TYPES["jsonl"]): OpenApiTypes.STR,
            (200, CONTENT_TYPES["parquet"]): OpenApiTypes.BINARY,
            404: ErrorSerializer,
            409: ErrorSerializer,
        },
    )
    def get(self, request: Request, number: int) -> StreamingHttpResponse:
        query = read_query(request, "as", "part")
        form, part = query.get("as", "jsonl"), query.get("part", "train")
        if form not in CONTENT_TYPES:
            raise Invalid("as must be jsonl or parquet.", param="as")
        if part not in PARTS:
            raise Invalid(f"part must be one of {', '.join(PARTS)}.", param="part")
        dataset = find_dataset(key_of(request).project, number)
        shards = shard_paths(_checked(dataset), part)
        return streamed(
            request,
            _lines(shards) if form == "jsonl" else _parquet(shards),
            content_type=CONTENT_TYPES[form],
            name=f"{dataset.project.slug}-dataset-{dataset.number}-{part}.{form}",
        )


def find_dataset(project: Project, number: int) -> Dataset:
    """Raises NotFound."""
    dataset = Dataset.objects.select_related("project").filter(project=project, number=number).first()
    if dataset is None:
        raise NotFound("There is no such dataset in this project.", param="dataset")
    return dataset


def find_compilation(project: Project, id_: UUID) -> Compilation:
    """Raises NotFound."""
    found = Compilation.objects.select_related("dataset").filter(project=project, pk=id_).first()
    if found is None:
        raise NotFound("There is no such compilation in this project.", param="compilation")
    return found


def _checked(dataset: Dataset) -> Path:
    """The dataset's folder. Raises Conflict when it was erased, or is not what was compiled."""
    if dataset.status == Dataset.Status.ERASED:
        raise Conflict(f"Dataset {dataset.number} was erased.", code="dataset_erased")
    try:
        verify(dataset.folder, expected_digest=dataset.digest)
    except ArtifactError as error:
        raise Conflict(
            f"Dataset {dataset.number} is damaged: {error}. Compile it again with the same cut-off.",
            code="dataset_damaged",
        ) from error
    return dataset.folder


def _lines(shards: list[Path]) -> Iterator[bytes]:
    for path in shards:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=200):
                yield b"".join(
                    json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in batch.to_pylist()
                )


def _parquet(shards: list[Path]) -> Iterator[bytes]:
    """One file: the shard itself where there is one, else all of them, written anew group by group."""
    if len(shards) == 1:
        with shards[0].open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
        return
    sink = Sink()
    with pq.ParquetWriter(sink, pq.read_schema(shards[0]), compression="zstd") as writer:
        for path in shards:
            with pq.ParquetFile(path) as shard:
                for place in range(shard.num_row_groups):
                    writer.write_table(shard.read_row_group(place))
                    yield sink.taken()
    yield sink.taken()
