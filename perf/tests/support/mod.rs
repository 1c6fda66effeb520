//! What tests ask of a page.

/// Reads a page as XML and looks for anything that would be loaded from elsewhere.
pub fn is_whole_and_alone(page: &str) {
    let xml = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let document = roxmltree::Document::parse(xml).unwrap_or_else(|error| panic!("{error}"));
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let name = node.tag_name().name();
        assert!(!["script", "link", "img", "iframe", "object", "image", "use"].contains(&name), "{name}");
        for attribute in node.attributes() {
            assert!(!["src", "href", "data"].contains(&attribute.name()), "{name} {}", attribute.name());
        }
    }
    // Names of namespaces are no references.
    let bare = ["http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"]
        .iter()
        .fold(page.to_owned(), |page, name| page.replace(&format!("xmlns=\"{name}\""), ""));
    for reference in ["http:", "https:", "url(", "@import", "//"] {
        assert!(!bare.contains(reference), "{reference} at {:?}", bare.find(reference));
    }
}
