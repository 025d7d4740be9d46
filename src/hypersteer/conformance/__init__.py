"""A conformance suite for steering: what any back end that steers per request has to keep."""
