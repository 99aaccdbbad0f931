import Foundation
import XCTest

/// Files of the build that the fixtures were made with load, export, extract and resume, and give that build's values.
final class OldFileTests: CompatibilityTestCase {
    func testModelsGiveTheFeaturesThatTheyGave() throws {
        let fixtures = try Fixtures(), golden = try GoldenTable(fixtures)
        for row in try availableRows() {
            for testCase in Self.featureCases {
                let found = try features(testCase, fixtures, row: row)
                let expected = try golden.value(testCase.key, row: row)
                let wrong = try fault(of: found, expected: expected, reference: fixtures.data(testCase.file))
                XCTAssertNil(wrong, "\(testCase.key) on \(row): \(wrong ?? "")")
            }
        }
    }

    func testInspectReadsModelsAndCheckpoints() throws {
        let fixtures = try Fixtures()
        for precision in Self.precisions {
            let model = try succeed("hssl", ["inspect", fixtures.path("models/small-\(precision).safetensors")]).output
            for text in ["blocks.1.mlp.fc2.weight", "hssl.architecture", "hssl.preprocessing", "hssl.provenance"] {
                XCTAssertTrue(model.contains(text), "\(precision): no '\(text)' in \(model)")
            }
            try restoreRun(precision, fixtures, checkpoint: wholeCheckpoint(precision, fixtures))
            let checkpoint = try succeed("hssl", ["inspect", "run/checkpoint.safetensors"]).output
            let tensor = "teacher.base.blocks.3.attn.qkv.weight"
            for text in [tensor, "hssl.step: 6\n", "hssl.dataset_name: train\n", "hssl.recipe: "] {
                XCTAssertTrue(checkpoint.contains(text), "\(precision): no '\(text)' in \(checkpoint)")
            }
        }
    }

    func testRunsExport() throws {
        let fixtures = try Fixtures(), golden = try GoldenTable(fixtures)
        for run in Self.precisions {
            try restoreRun(run, fixtures, checkpoint: wholeCheckpoint(run, fixtures))
            // One run on every row is enough: nothing is summed.
            let rows = try run == "int8" ? availableRows() : availableRows().suffix(1)
            for (network, precision) in Self.exports {
                for row in rows {
                    let (key, value) = try export(run, network: network, precision: precision, row: row)
                    XCTAssertEqual(value, try golden.value(key, row: row), "\(key) on \(row)")
                }
            }
        }
    }

    func testRunsResume() throws {
        let fixtures = try Fixtures()
        for precision in Self.precisions {
            let checkpoint = try wholeCheckpoint(precision, fixtures)
            let before = try String(decoding: fixtures.data("runs/\(precision)/metrics.jsonl"), as: UTF8.self)
            XCTAssertEqual(before.split(separator: "\n").count, 6)
            for row in try availableRows() {
                try restoreRun(precision, fixtures, checkpoint: checkpoint)
                try assertGolden(train("resumed", precision, fixtures, row: row), precision, row, fixtures)
                let after = try String(decoding: bytes("run/metrics.jsonl"), as: UTF8.self)
                XCTAssertTrue(after.hasPrefix(before), "\(precision): the old lines of metrics.jsonl stay")
                XCTAssertEqual(after.split(separator: "\n").count, 12)
            }
        }
    }
}

/// Short runs of the recipes of the old runs end with the weights, moments and centres that they ended with.
final class ShortRunTests: CompatibilityTestCase {
    func testRunsEndAsTheyDid() throws {
        let fixtures = try Fixtures()
        for precision in Self.precisions {
            for row in try availableRows() {
                try assertGolden(train("short", precision, fixtures, row: row), precision, row, fixtures)
            }
        }
    }
}

extension CompatibilityTestCase {
    /// Relative difference of losses between rows: rounding, twelve updates on.
    static func lossTolerance(_ precision: String) -> Double { ["float32": 1e-3, "float16": 1e-2][precision] ?? 5e-2 }

    /// Compares what `train` gave: every bit on a row that was recorded, else the losses.
    func assertGolden(_ values: [String: String], _ precision: String, _ row: String, _ fixtures: Fixtures,
                      file: StaticString = #filePath, line: UInt = #line) throws {
        let golden = try GoldenTable(fixtures)
        for (key, value) in values.sorted(by: { $0.key < $1.key }) {
            let expected = try golden.value(key, row: row)
            if key.hasSuffix("/loss") {
                let reference = try golden.value(key, row: Self.referenceRow) ?? ""
                let tolerance = Self.lossTolerance(precision)
                let wrong = fault(ofLosses: value, expected: expected, reference: reference, tolerance: tolerance)
                XCTAssertNil(wrong, "\(key) on \(row): \(wrong ?? "")", file: file, line: line)
            } else if let expected {
                XCTAssertEqual(value, expected, "\(key) on \(row)", file: file, line: line)
            }
        }
    }
}
