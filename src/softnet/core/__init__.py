"""The filter itself: no socket, clock, log or thread, and nothing imported from outside `core`."""
