//! The control protocol between `bulkhead` and a wall.
