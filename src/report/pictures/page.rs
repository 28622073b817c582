//! A page shell: one HTML file that needs nothing else, follows the reader's choice of light or dark, and
//! is well-formed XML too.

use super::svg::escape;
use super::{difference, importance, stack};
use crate::recipe::PlanSummary;
use crate::report::tables::{ImatrixStatistics, ModelDifference, render_merge};

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
    let picture = stack::drawn(summary, title);
    let text = render_merge(summary);
    picture_page(title, &picture, stack::DARK_STYLE, "Every layer as text", &text)
}

/// The heat map of an importance matrix as a page: the picture, and below it all figures as text.
pub fn imatrix_html(report: &ImatrixStatistics) -> String {
    let (picture, text) = (importance::drawn(report), report.render(true));
    let title = importance::title(report);
    picture_page(&title, &picture, importance::DARK_STYLE, "Every tensor as text", &text)
}

/// The heat map of two models' difference as a page: the picture, and below it all figures as text.
pub fn difference_html(report: &ModelDifference) -> String {
    let (picture, text) = (difference::drawn(report), report.render(usize::MAX));
    let title = difference::title(report);
    picture_page(&title, &picture, difference::DARK_STYLE, "Every tensor as text", &text)
}

/// A page with `picture`, and below it `text` under `heading`; `dark` has the rules of the picture for dark
/// grounds.
fn picture_page(title: &str, picture: &str, dark: &str, heading: &str, text: &str) -> String {
    let (heading, text) = (escape(heading), escape(text));
    let body =
        format!("{picture}<details><summary>{heading}</summary>\n<pre>{text}</pre>\n</details>\n");
    // The picture's own rules come later in the page, so these must be the stronger ones.
    let dark: String = dark.split_inclusive('}').map(|rule| format!("main {rule}")).collect();
    page(title, "", &dark, &body)
}
