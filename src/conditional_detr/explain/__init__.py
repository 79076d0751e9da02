"""Where a detector looked: pictures, arrays and figures of its attention."""
