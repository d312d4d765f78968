//! The pages that explain error codes, carried by the binary.

include!(concat!(env!("OUT_DIR"), "/error_pages.rs"));

/// The page of a code, in Markdown.
#[must_use]
pub(crate) fn error_page(code: &str) -> Option<&'static str> {
    let place = ERROR_PAGES.binary_search_by_key(&code, |(known, _)| known).ok()?;
    ERROR_PAGES.get(place).map(|(_, page)| *page)
}

#[cfg(test)]
mod tests {
    use super::error_page;

    #[test]
    fn every_status_of_the_table_has_a_page() {
        for (code, ..) in crate::error::TABLE {
            assert!(error_page(code).is_some(), "docs/errors/{code}.md is missing");
        }
        assert_eq!(error_page("../../Cargo"), None);
    }
}
