"""Versions: named artefacts that are never overwritten, and which of them a request means."""

from __future__ import annotations

import errno
import shutil
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Max, Q
from django.utils import timezone

from inference.artifact import ArtifactError, read_manifest, verify
from inference.models import Deployment, Version
from inference.services.prompts import hash_share
from projects.errors import Invalid, NotFound, Unavailable
from projects.models import Project
from projects.services import SYSTEM, Actor, create_project, record_audit

NUMBER_TRIES = 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ModelNotFound(NotFound):
    code = "model_not_found"


class DamagedArtifact(Invalid):
    code = "damaged_artifact"


class NoRoom(Unavailable):
    code = "disk_full"


def start_project(*, slug: str, name: str, actor: Actor, **fields: Any) -> Project:
    """A project that serves at once: its base model is v1, and deployment 1 makes v1 the champion."""
    with transaction.atomic():
        project = create_project(slug=slug, name=name, actor=actor, **fields)
        manifest = _base_manifest()
        base = Version.objects.create(
            project=project,
            number=1,
            kind=Version.Kind.BASE,
            digest=manifest["digest"],
            manifest=manifest,
        )
        Deployment.objects.create(
            project=project,
            number=1,
            kind=Deployment.Kind.FIRST,
            champion=base,
            user=actor.user,
            api_key=actor.api_key,
            reason="The project begins with its base model.",
        )
    return project


def register_version(*, project: Project, kind: str, artifact: Path, actor: Actor = SYSTEM) -> Version:
    """Copy a finished artifact to where versions live and give it the project's next number.

    The copy is checked file by file. A crash leaves either the version, or nothing but a folder that the
    next registration clears away. Raises DamagedArtifact when the folder is not what its manifest says,
    NoRoom when there is no room for the copy.
    """
    home = Path(settings.ARTIFACTS_DIR) / "versions" / str(project.id)
    home.mkdir(parents=True, exist_ok=True)
    incoming = home / f".incoming-{uuid.uuid4()}"
    try:
        # symlinks=True copies a link as a link, which the check then refuses by name.
        shutil.copytree(artifact, incoming, symlinks=True, copy_function=_copy_file)
        manifest = verify(incoming, servable=True)
        version = _insert_version(project, kind, incoming, manifest)
    except (ArtifactError, OSError) as error:
        raise DamagedArtifact(f"The artifact cannot be registered: {error}.") from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)  # gone already when all went well
    record_audit(
        project=project,
        actor=actor,
        action="version.registered",
        subject=f"version:{version.number}",
        detail={"kind": kind, "digest": version.digest},
    )
    return version


def _copy_file(source: str, target: str) -> str:
    """As `shutil.copy2`. Of errors `copytree` keeps the words alone, and a full disk must be told apart."""
    try:
        return str(shutil.copy2(source, target))
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise NoRoom(f"{settings.ARTIFACTS_DIR} has no room for the version: {error.strerror}.") from error


def mark_candidate(version: Version) -> bool:
    """Have the engines hold it, because an evaluation needs it. True when it was none before."""
    version.is_candidate = True
    return bool(Version.objects.filter(pk=version.pk, is_candidate=False).update(is_candidate=True))


def release_candidate(version: Version) -> bool:
    """The engines may let it go, unless it serves."""
    version.is_candidate = False
    return bool(Version.objects.filter(pk=version.pk, is_candidate=True).update(is_candidate=False))


def hold_version(version: Version, *, seconds: float) -> None:
    """Have the engines hold it for so long, because somebody samples from it. Say so again before it ends."""
    version.held_until = timezone.now() + timedelta(seconds=seconds)
    Version.objects.filter(pk=version.pk).update(held_until=version.held_until)


def wanted_besides() -> Q:
    """Versions that the engines should hold without their serving: candidates, and what is sampled from."""
    return Q(is_candidate=True) | Q(held_until__gt=timezone.now())


def resolve_version(*, project: Project, model: str, sticky: str) -> Version:
    """The version that a request's `model` means, bound for the whole answer.

    `slug` is the champion, or the canary for its share of `sticky` keys; `slug@v7` is that one, while an
    engine holds it; `slug@candidate` is the newest candidate. Raises ModelNotFound.
    """
    slug, at, name = model.partition("@")
    if slug != project.slug:
        raise _unknown(project, model)
    if at and name == "candidate":
        candidate = (
            Version.objects.select_related("project")
            .filter(project=project, is_candidate=True)
            .order_by("-number")
            .first()
        )
        if candidate is None:
            raise ModelNotFound(f"{project.slug} has no candidate just now.", param="model")
        return candidate
    deployment = current(project)
    if not at:
        if deployment.canary is not None and hash_share(project.salt, sticky) < deployment.canary_share:
            return deployment.canary
        return deployment.champion
    if not name.startswith("v") or not name[1:].isascii() or not name[1:].isdigit() or len(name) > 9:
        raise _unknown(project, model)
    return _held_version(project, int(name[1:]), deployment, model)


def current(project: Project) -> Deployment:
    """The deployment with the highest number, in one indexed query. Raises NotFound."""
    deployment = (
        Deployment.objects.select_related("champion__project", "canary__project", "previous__project")
        .filter(project=project)
        .order_by("-number")
        .first()
    )
    if deployment is None:
        raise NotFound(f"Nothing serves {project.slug}: it has no deployment.")
    return deployment


def held_versions(project: Project) -> list[Version]:
    """What the engines should hold for a project: what serves, its way back, and `wanted_besides`."""
    deployment = current(project)
    ids = [deployment.champion_id, deployment.canary_id, deployment.previous_id]
    wanted = Q(id__in=[id_ for id_ in ids if id_]) | wanted_besides()
    return list(Version.objects.select_related("project").filter(wanted, project=project))


def _held_version(project: Project, number: int, deployment: Deployment, model: str) -> Version:
    version = Version.objects.select_related("project").filter(project=project, number=number).first()
    if version is None or version.kind == Version.Kind.REWARD:
        raise _unknown(project, model)
    held = (deployment.champion_id, deployment.canary_id, deployment.previous_id)
    if version.id not in held and not version.is_candidate and version.kind != Version.Kind.BASE:
        raise ModelNotFound(
            f"{model} is not loaded: it is neither champion, canary, previous nor a candidate.",
            param="model",
        )
    return version


def _unknown(project: Project, model: str) -> ModelNotFound:
    shown = model if len(model) <= 80 else model[:80] + "…"
    return ModelNotFound(
        f"There is no model {shown}. This key serves {project.slug}, {project.slug}@vN "
        f"and {project.slug}@candidate.",
        param="model",
    )


def _insert_version(project: Project, kind: str, incoming: Path, manifest: dict[str, Any]) -> Version:
    """Row and folder together: the number is held by the transaction while the folder takes its place."""
    for _ in range(NUMBER_TRIES):
        last = Version.objects.filter(project=project).aggregate(last=Max("number"))["last"] or 0
        path = f"versions/{project.id}/v{last + 1}"
        target = Path(settings.ARTIFACTS_DIR) / path
        try:
            with transaction.atomic():
                version = Version.objects.create(
                    project=project,
                    number=last + 1,
                    kind=kind,
                    path=path,
                    digest=manifest["digest"],
                    manifest=manifest,
                )
                if target.exists():  # no row names it, so it is left from a crash before a commit
                    shutil.rmtree(target)
                incoming.rename(target)
                return version
        except IntegrityError:
            continue  # another registration took the number
    raise OSError(f"no free version number after {NUMBER_TRIES} tries")


def _base_manifest() -> dict[str, Any]:
    """The base model's manifest. Where only the engine has the model, its name stands for it."""
    try:
        return read_manifest(Path(settings.MODEL_DIR))
    except ArtifactError:
        return {"digest": f"name:{settings.ENGINE_SERVED_NAME}"}
