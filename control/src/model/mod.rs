//! Documents: parsed, validated, compared and changed.
