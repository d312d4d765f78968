//! The checks that the validator of definitions asks for.
