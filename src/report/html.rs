//! A page shell: one HTML file that needs nothing else, follows the reader's choice of light or dark, and
//! is well-formed XML too.

use super::stack_picture;
use super::svg::escape;
use crate::recipe::PlanSummary;

const STYLE: &str = "\
body{margin:0;font:14px/1.5 system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;background:#fff;color:#1f2328}\
main{max-width:max-content;margin:0 auto;padding:8px}svg{max-width:100%;height:auto;display:block}\
details{padding:0 28px 28px}summary{cursor:pointer}pre{overflow-x:auto;font-size:12px;line-height:1.4}";
const DARK_STYLE: &str = "body{background:#0d1117;color:#e6edf3}";

/// A page with `body`, which is markup, under `title`, which is text. `style` and `dark` are rules that the
/// body needs, the latter on dark grounds. The page may load nothing from anywhere and runs no script.
pub fn page(title: &str, style: &str, dark: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <title>{title}</title>\n<style>{STYLE}{style}\n\
         @media (prefers-color-scheme: dark) {{{DARK_STYLE}{dark}}}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// The plan's stack as a page: the picture, and below it every row as text.
pub fn stack_html(summary: &PlanSummary, title: &str) -> String {
    let picture = stack_picture::drawn(summary, title);
    let text = escape(&super::plan::render_merge(summary));
    let body = format!(
        "{picture}<details><summary>Every layer as text</summary>\n<pre>{text}</pre>\n</details>\n"
    );
    // The picture's own rules come later in the page, so these must be the stronger ones.
    let dark: String =
        stack_picture::DARK_STYLE.split_inclusive('}').map(|rule| format!("main {rule}")).collect();
    page(title, "", &dark, &body)
}
