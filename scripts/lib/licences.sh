# shellcheck shell=bash
# The part of `cargo deny check licenses sources` that `cargo metadata` and jq can do, for machines without cargo-deny.

# licences: every crate from outside must come from crates.io and be usable under the licences that deny.toml allows.
licences() {
    local allowed
    allowed="$(sed -n '/^\[licenses\]/,/^]/s/^ *"\(.*\)",$/\1/p' "$REPO/deny.toml" | jq -Rn '[inputs]')"
    # An SPDX expression becomes a row of true, false, "and", "or" and parentheses, judged by taking the innermost parentheses first.
    # shellcheck disable=SC2016 # $allowed is jq's
    cargo metadata --locked --format-version 1 --manifest-path "$REPO/Cargo.toml" --filter-platform x86_64-unknown-linux-gnu |
        jq -r --argjson allowed "$allowed" '
            def flat: [splits(" OR ") | [splits(" AND ") | . == "true" or (. as $one | $allowed | index($one) != null)] | all] | any;
            def holds:
                if test("\\(") then sub("\\((?<inner>[^()]*)\\)"; .inner | flat | tostring) | holds else flat end;
            [.packages[] | select(.source != null)] as $foreign
            | [$foreign[] | select((.license // "none" | gsub(" ?/ ?"; " OR ") | holds) | not)
                | "\(.name) \(.version): licence \(.license // "none") is not allowed by deny.toml"] as $licences
            | [$foreign[] | select(.source != "registry+https://github.com/rust-lang/crates.io-index")
                | "\(.name) \(.version): comes from \(.source), allowed: crates.io"] as $sources
            | $licences + $sources
            | if length > 0 then join("\n") + "\n" | halt_error(1) else "\($foreign | length) crates, all from crates.io under allowed licences" end'
}
