"""Lists of the admin console count as far as anybody leafs, and say so."""

from __future__ import annotations

import pytest
from django.urls import reverse

from projects.console import BoundedPaginator
from projects.models import Membership
from tests.cast import Cast


@pytest.mark.parametrize("more", [0, 1])
def test_a_count_that_stopped_has_a_plus(cast: Cast, monkeypatch: pytest.MonkeyPatch, more: int):
    cast.ada.is_staff = True
    cast.ada.save(update_fields=["is_staff"])
    cast.client.force_login(cast.ada)
    count = Membership.objects.count()
    monkeypatch.setattr(BoundedPaginator, "MOST", count + 1 - more)
    page = cast.client.get(reverse("admin:projects_membership_changelist")).content.decode()
    assert f"{count}{'+' * more} memberships" in page
