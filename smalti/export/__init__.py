"""What leaves the suite: token files, and models in the formats of other libraries."""
