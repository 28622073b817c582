//! The report of a build as a browser draws it.

use crate::support::program::{Place, shipped};
use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::process::Command;

const SIZE: (u32, u32) = (1250, 3000);

/// The pixels of a PNG file, red, green and blue of each.
fn pixels(place: &Place, name: &str) -> Vec<[u8; 3]> {
    let file = BufReader::new(File::open(place.path(name)).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!((info.width, info.height, info.bit_depth), (SIZE.0, SIZE.1, png::BitDepth::Eight));
    let channels = info.color_type.samples();
    assert!(channels >= 3, "{:?}", info.color_type);
    bytes[..info.buffer_size()].chunks(channels).map(|p| [p[0], p[1], p[2]]).collect()
}

fn render(place: &Place, more: &[&str]) {
    let size = format!("{}x{}", SIZE.0, SIZE.1);
    let drawn = Command::new(shipped("scripts/render-picture"))
        .args(["--size", &size, "-o", "."])
        .args(more)
        .arg("out/report.html")
        .current_dir(place.path("."))
        .output()
        .unwrap();
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
}

/// Mean of red, green and blue, 0 to 255.
fn brightness(pixels: &[[u8; 3]]) -> f64 {
    let sum: u64 = pixels.iter().flatten().map(|&value| u64::from(value)).sum();
    sum as f64 / (3 * pixels.len()) as f64
}

#[test]
#[ignore = "needs Chromium in PATH (Debian's package chromium), and Python"]
fn chromium_draws_all_of_a_report_light_and_dark() {
    let place = Place::new();
    place.ok("build @recipes/demo.yml -o out --chunks 4 --types Q3_K_M,Q4_K_M,Q5_K_M,Q8_0 --eval \
         @tests/data/demo/held-out.txt --eval-chunks 4");
    render(&place, &[]);
    render(&place, &["--dark"]);
    let (light, dark) = (pixels(&place, "report.png"), pixels(&place, "report-dark.png"));
    assert!(brightness(&light) > 200.0, "{}", brightness(&light));
    assert!(brightness(&dark) < 80.0, "{}", brightness(&dark));
    for (page, name) in [(light, "light"), (dark, "dark")] {
        // Text, curves, heat map, types and stack, from top to bottom: no part of the page is empty.
        let part = page.len() / 10;
        for (at, part) in page.chunks(part).enumerate() {
            let colours: HashSet<_> = part.iter().collect();
            assert!(colours.len() > 30, "{name}: part {at} has {} colours", colours.len());
        }
        // Curves, heat maps and types are in colour.
        let coloured = |p: &&[u8; 3]| p.iter().max().unwrap() - p.iter().min().unwrap() > 60;
        let share = page.iter().filter(coloured).count() as f64 / page.len() as f64;
        assert!(share > 0.02, "{name}: {share} of the page is in colour");
    }
}
