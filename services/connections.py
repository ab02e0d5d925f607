"""How the processes of a mesh are connected, on both ends: who stands still is left.

A process that is stopped, or whose host is gone, refuses nothing: what was asked of it would
wait until its own deadline. It answers no ping either, while one that is only busy does: gRPC
Core answers beside the event loop. So callers ping (gRFC A8), and servers allow it (gRFC A9).
"""

from __future__ import annotations

from balancer import ChannelConfig

PING_AFTER_S = 3.0
PING_TIMEOUT_S = 2.0
# A connection is closed on which somebody pings more often: less than any client's interval,
# which in gRPC Core is a second at least.
PINGS_APART_MIN_S = 0.5

CHANNEL_CONFIG = ChannelConfig(keepalive_time_s=PING_AFTER_S, keepalive_timeout_s=PING_TIMEOUT_S)
