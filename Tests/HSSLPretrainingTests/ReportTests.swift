import Foundation
import XCTest
@testable import HSSLPretraining

final class ReportTests: XCTestCase {
    private func recipe() throws -> Recipe {
        try Recipe.parse(
            "model: {architecture: vit_nano, image_size: 28, patch_size: 4}", file: "r", architectures: ["vit_nano"])
    }

    private func metrics(_ count: Int) -> [Metrics] {
        (1...count).map { step in
            var line = Metrics(step: step, epoch: step * 10 / (count + 1))
            let x = Double(step) / Double(count), wave = 0.15 * sin(Double(step) * 12.9898) * cos(Double(step) * 4.1)
            line.loss = 5 + 4 * exp(-4 * x) + wave
            line.named["cls_base"] = 2 + 4 * exp(-3 * x) + wave / 2
            line.named["cls_aux"] = 1.8 + 4 * exp(-5 * x) + wave / 2
            line.named["patch"] = 3 + 3 * exp(-6 * x) - wave / 3
            line.learningRate = x < 0.1 ? 5e-4 * x / 0.1 : 2.5e-4 * (1 + cos(Double.pi * (x - 0.1) / 0.9))
            line.teacherEntropy = 9 - 3 * x
            line.featureStd = 0.02 + 0.06 * x
            line.gradientNorm = 1 + 3 * exp(-3 * x) + wave
            line.teacherTemperature = 0.04 + 0.03 * min(1, 2 * x)
            line.imagesPerSecond = 850 + 40 * wave
            line.peakRSSBytes = 512 << 20
            if step % (count / 10) == 0 { line.knnTop1 = 0.35 + 0.45 * (1 - exp(-3 * x)) }
            return line
        }
    }

    private func picture(_ seed: Int, _ caption: String, side: Int = 28) throws -> Report.Picture {
        var rgb: [UInt8] = []
        for y in 0..<side {
            for x in 0..<side {
                let inside =
                    (x - side / 2) * (x - side / 2) + (y - side / 2) * (y - side / 2) < side * side / 8 + seed * 5
                rgb +=
                    inside
                    ? [UInt8(60 + seed * 23 % 190), UInt8(x * 255 / side), UInt8(y * 255 / side)]
                    : [20, 24, UInt8(40 + y)]
            }
        }
        return try XCTUnwrap(Report.Picture(rgb: rgb, width: side, height: side, caption: caption))
    }

    private func report() throws -> Report {
        let rows = try (0..<4).map { q in
            Report.Neighborhood(
                query: try picture(q, "test/\(q).png"),
                neighbors: try (0..<8).map { try picture(q + $0, "0.9\(9 - $0) · <b>&\"") })
        }
        return Report(
            title: "fashion <run> & more", recipe: try recipe(), metrics: metrics(3000), neighborhoods: rows,
            results: [("k-NN, 20 neighbours", "81.25 %")])
    }

    /// Writes the sample page where `HSSL_REPORT_SAMPLE` says, to be looked at.
    func testPageIsSelfContainedAndWellFormed() throws {
        let html = try report().html
        if let path = ProcessInfo.processInfo.environment["HSSL_REPORT_SAMPLE"] { try report().write(to: path) }
        for address in ["http://", "https://", "<script", "<link", "url("] {
            XCTAssertFalse(html.contains(address), address)
        }
        XCTAssertTrue(html.contains("fashion &lt;run&gt; &amp; more"))
        XCTAssertFalse(html.contains("<run>"))
        XCTAssertEqual(html.components(separatedBy: "<svg ").count - 1, 8)
        XCTAssertEqual(html.components(separatedBy: "data:image/png;base64,").count - 1, 4 * 9)
        assertCoordinatesAreNumbers(html)
        for title in ["Loss", "k-NN top-1", "Learning rate", "Teacher entropy (nats)"] {
            XCTAssertTrue(html.contains("<b>\(title)</b>"))
        }
        XCTAssertTrue(html.contains("<td>mask_ratio</td><td>[0.0, 0.3]</td>"))
        // Thinned: a page of 3000 steps is no larger than one of 300,000.
        XCTAssertLessThan(html.utf8.count, 1 << 20)
        for tag in ["svg", "figure", "section", "div", "table", "tr", "td", "title", "text", "span"] {
            let opened =
                html.components(separatedBy: "<\(tag)>").count + html.components(separatedBy: "<\(tag) ").count - 2
            XCTAssertEqual(opened, html.components(separatedBy: "</\(tag)>").count - 1, tag)
        }
    }

    func testMissingAndBrokenMetricsLeaveGaps() throws {
        XCTAssertTrue(Report(title: "t", recipe: try recipe(), metrics: []).html.contains("No step was measured."))
        var broken = metrics(20)
        broken[3].loss = .nan
        broken[7].loss = .infinity
        for i in broken.indices { broken[i].featureStd = 0.5; broken[i].gradientNorm = nil }
        let html = Report(title: "t", recipe: try recipe(), metrics: broken).html
        XCTAssertFalse(html.contains("Gradient norm"))
        assertCoordinatesAreNumbers(html)
        // One step only: dots instead of lines.
        let single = Report(title: "t", recipe: try recipe(), metrics: Array(metrics(20).prefix(1))).html
        XCTAssertTrue(single.contains("class=\"dot c0\""))
    }

    private func assertCoordinatesAreNumbers(_ html: String, line: UInt = #line) {
        XCTAssertNil(html.range(of: "[\"ML ](-|−)?(nan|inf)[ \"L]", options: .regularExpression), line: line)
        // A typographic minus or a thin space is for readers, not for SVG.
        XCTAssertNil(
            html.range(of: "(d|x|y|x1|x2|y1|y2|cx|cy)=\"[^\"]*[−\u{2009}]", options: .regularExpression), line: line)
    }

    func testPictureSizesAreChecked() {
        XCTAssertNil(Report.Picture(rgb: [0, 0, 0], width: 2, height: 1, caption: ""))
        XCTAssertNil(Report.Picture(rgb: [], width: 0, height: 0, caption: ""))
    }

    func testTicksAreRoundAndCoverTheData() {
        for (a, b) in [(0.0, 1.0), (0.31, 0.87), (-3.2, 17), (1e-6, 9e-4), (0, 123_456), (5, 5.0001)] {
            let ticks = Ticks(covering: a, b, about: 5, outward: true)
            XCTAssertLessThanOrEqual(ticks.low, a + 1e-9 * abs(b))
            XCTAssertGreaterThanOrEqual(ticks.high, b - 1e-9 * abs(b))
            XCTAssertTrue((3...9).contains(ticks.values.count), "\(a) \(b): \(ticks.values)")
            XCTAssertEqual(
                Set(ticks.values.map(ticks.label)).count, ticks.values.count,
                "labels tell ticks apart: \(ticks.values.map(ticks.label))")
        }
    }

    func testNumbersForPeople() {
        XCTAssertEqual(
            [0, 5.13214, 0.0312, 7.5e-4, 12_000, 81.25, -2, 1e12].map(shortNumber),
            ["0", "5.132", "0.0312", "7.5e−4", "12\u{2009}000", "81.25", "−2", "1e12"])
        XCTAssertEqual(fixed(-0.001, places: 2), "0.00")
        XCTAssertEqual(fixed(1234567.891, places: 1), "1\u{2009}234\u{2009}567.9")
    }
}
