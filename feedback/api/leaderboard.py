"""`GET leaderboard`: versions by what people prefer, as last measured."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback.models import Leaderboard
from projects.rest import UtcField, key_of, read_query


class PlaceSerializer(serializers.Serializer[Any]):
    version = serializers.CharField()
    points = serializers.FloatField(help_text="0 for the average version; 400 are odds of ten to one.")
    low = serializers.FloatField(help_text="95 % interval over raters and their votes.")
    high = serializers.FloatField()
    better = serializers.FloatField(
        allow_null=True, help_text="Probability that it is better than the reference."
    )
    win_rate = serializers.FloatField(help_text="Ties count half.")
    votes = serializers.IntegerField()
    raters = serializers.IntegerField()
    characters = serializers.FloatField(allow_null=True, help_text="Mean length of its judged answers.")
    is_settled = serializers.BooleanField(
        help_text="False where votes are too few, or none joins it with the reference."
    )
    is_connected = serializers.BooleanField()


class LeaderboardSerializer(serializers.Serializer[Any]):
    reference = serializers.CharField(allow_null=True, help_text="The champion when it was measured.")
    votes = serializers.IntegerField()
    raters = serializers.IntegerField()
    longer_won = serializers.FloatField(
        allow_null=True, help_text="Share of decided votes that the longer answer won."
    )
    measured = UtcField(allow_null=True)
    places = PlaceSerializer(many=True)


class ShowLeaderboard(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(operation_id="show_leaderboard", responses={200: LeaderboardSerializer})
    def get(self, request: Request) -> Response:
        read_query(request)
        board = Leaderboard.objects.filter(project=key_of(request).project).first()
        numbers = {"reference": None, "votes": 0, "raters": 0, "longer_won": None}
        if board is not None:
            numbers |= board.numbers
        return Response(
            LeaderboardSerializer(
                {
                    **numbers,
                    "measured": board.measured if board else None,
                    "places": board.places if board else [],
                }
            ).data
        )
