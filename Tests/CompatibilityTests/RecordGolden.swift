import Foundation
import XCTest

/// Writes the fixtures in place of comparing with them, where `HSSL_RECORD` is set: `values` (what the old files give
/// with the programs of `HSSL_BINARIES`) or `runs` (the stopped runs too). For `tools/make_golden`.
final class RecordGolden: CompatibilityTestCase {
    override func setUpWithError() throws {
        if mode == nil { throw XCTSkip("tools/make_golden records values") }
        try makeRoot()
    }

    private let mode = ProcessInfo.processInfo.environment["HSSL_RECORD"]

    func testRecord() throws {
        if mode == "runs" { try recordRuns() }
        // The files so far, before anything is read through `Fixtures`.
        try GoldenTable().write()
        try Fixtures.writeChecksums()
        let fixtures = try Fixtures(), rows = try availableRows()
        guard rows.contains(Self.referenceRow) else {
            throw CompatibilityError("this machine has no \(Self.referenceRow)")
        }
        var golden = GoldenTable()

        for testCase in Self.featureCases {
            var values: [String: String] = [:]
            for row in rows {
                let found = try features(testCase, fixtures, row: row)
                values[row] = checksum(found)
                if row == Self.referenceRow { try write(found, testCase.file) }
            }
            golden.record(testCase.key, values)
        }
        for run in Self.precisions {
            let checkpoint = try wholeCheckpoint(run, fixtures)
            try restoreRun(run, fixtures, checkpoint: checkpoint)
            for (network, precision) in Self.exports {
                var values: [String: [String: String]] = [:]
                for row in rows {
                    let (key, value) = try export(run, network: network, precision: precision, row: row)
                    values[key, default: [:]][row] = value
                }
                for (key, value) in values { golden.record(key, value) }
            }
            for kind in ["short", "resumed"] {
                var values: [String: [String: String]] = [:]
                for row in rows {
                    if kind == "resumed" { try restoreRun(run, fixtures, checkpoint: checkpoint) }
                    for (key, value) in try train(kind, run, fixtures, row: row) {
                        values[key, default: [:]][row] = value
                    }
                }
                for (key, value) in values { golden.record(key, value) }
            }
        }
        try golden.write()
        try Fixtures.writeChecksums()
    }

    /// Three recipes that between them use what a recipe may say, 40 images: 4 updates an epoch, stopped after 6.
    private static let recipes = [
        "float32": """
            auxiliary:  {family: convnext, depth: 2, kernel_size: 3, first_shortcut: false}
            head:       {hidden_dim: 16, bottleneck_dim: 8, prototypes: 16, norm_last_layer: false}
            schedule:   {epochs: 3, batch_size: 10, precision: float32}
            data:       {local_crops: 1, local_crops_size: 8}
            evaluation: {knn_every_epochs: 1}
            """,
        "float16": """
            auxiliary:  {family: none}
            head:       {hidden_dim: 16, bottleneck_dim: 8, prototypes: 16, norm_last_layer: true}
            schedule:   {epochs: 3, batch_size: 5, accumulate: 2, seed: 3, precision: float16}
            data:       {local_crops: 2, local_crops_size: 8}
            evaluation: {knn_every_epochs: 0}
            """,
        "int8": """
            auxiliary:  {family: convnext, depth: 1, kernel_size: 7, first_shortcut: true}
            head:       {hidden_dim: 24, bottleneck_dim: 12, prototypes: 20, norm_last_layer: true}
            schedule:   {epochs: 3, batch_size: 10, seed: 5, precision: int8}
            data:       {local_crops: 0, mean: [0.4, 0.4, 0.4], std: [0.3, 0.3, 0.3]}
            evaluation: {knn_every_epochs: 0}
            """,
    ]

    private func recordRuns() throws {
        for (precision, recipe) in Self.recipes {
            let shape = precision == "int8" ? "random" : "block"
            let text = """
                model:      {architecture: vit_nano, image_size: 12, patch_size: 4, drop_path: 0.1}
                objective:  {warmup_teacher_temperature_epochs: 1, mask_shape: \(shape)}
                optimizer:  {learning_rate: 0.005, warmup_epochs: 1, freeze_prototypes_epochs: 1}
                checkpoint: {every_steps: 100}
                \(recipe)

                """
            try text.write(toFile: "\(root)/tiny.yaml", atomically: true, encoding: .utf8)
            try? FileManager.default.removeItem(atPath: "\(root)/run")
            let options = ["--data", "train", "--output", "run", "--threads", "1", "--max-steps", "6"]
            try succeed("hssl", ["pretrain", "tiny.yaml"] + options, row: Self.referenceRow)
            for name in ["config.yaml", "metrics.jsonl"] {
                try write(bytes("run/\(name)"), "runs/\(precision)/\(name)")
            }
            let checkpoint = try bytes("run/checkpoint.safetensors")
            try write(OldCheckpoint.beginning(of: checkpoint), "runs/\(precision)/checkpoint.begin")
        }
    }

    private func write(_ data: Data, _ name: String) throws {
        let file = URL(fileURLWithPath: "\(Fixtures.folder)/\(name)")
        let folder = file.deletingLastPathComponent()
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try data.write(to: file)
    }
}
