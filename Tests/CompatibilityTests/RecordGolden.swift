import Foundation
import XCTest

/// Writes the fixtures in place of comparing with them, where `HSSL_RECORD` is set: `values` (what today's files give with the programs of
/// `HSSL_BINARIES`) or `runs` (the stopped runs too). For `tools/make_golden`.
final class RecordGolden: CompatibilityTestCase {
    override func setUpWithError() throws {
        if ProcessInfo.processInfo.environment["HSSL_RECORD"] == nil { throw XCTSkip("tools/make_golden records values") }
        try makeRoot()
    }

    func testRecord() throws {
        if ProcessInfo.processInfo.environment["HSSL_RECORD"] == "runs" { try recordRuns() }
        // The files so far, before anything is read through `Fixtures`.
        try GoldenTable().write()
        try Fixtures.writeChecksums()
        let fixtures = try Fixtures(), rows = try availableRows()
        guard rows.contains(Self.referenceRow) else { throw CompatibilityError("this machine has no \(Self.referenceRow)") }
        var golden = GoldenTable()

        for testCase in Self.featureCases {
            var values: [String: String] = [:]
            for row in rows {
                let found = try features(testCase, fixtures, row: row)
                values[row] = checksum(found)
                if row == Self.referenceRow { try found.write(to: URL(fileURLWithPath: "\(Fixtures.folder)/\(testCase.file)")) }
            }
            golden.record(testCase.key, values)
        }
        for run in Self.precisions {
            let checkpoint = try wholeCheckpoint(run, fixtures)
            try restoreRun(run, fixtures, checkpoint: checkpoint)
            for (network, precision) in Self.exports {
                let values = try rows.map { row in (row, try export(run, network: network, precision: precision, row: row)) }
                golden.record(values[0].1.key, Dictionary(uniqueKeysWithValues: values.map { ($0.0, $0.1.value) }))
            }
            for kind in ["short", "resumed"] {
                var values: [String: [String: String]] = [:]
                for row in rows {
                    if kind == "resumed" { try restoreRun(run, fixtures, checkpoint: checkpoint) }
                    for (key, value) in try train(kind, run, fixtures, row: row) { values[key, default: [:]][row] = value }
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
            let text = """
                model:      {architecture: vit_nano, image_size: 12, patch_size: 4, drop_path: 0.1}
                objective:  {warmup_teacher_temperature_epochs: 1, mask_shape: \(precision == "int8" ? "random" : "block")}
                optimizer:  {learning_rate: 0.005, warmup_epochs: 1, freeze_prototypes_epochs: 1}
                checkpoint: {every_steps: 100}
                \(recipe)

                """
            try text.write(toFile: "\(root)/tiny.yaml", atomically: true, encoding: .utf8)
            try? FileManager.default.removeItem(atPath: "\(root)/run")
            try succeed("hssl", ["pretrain", "tiny.yaml", "--data", "train", "--output", "run", "--threads", "1", "--max-steps", "6"], row: Self.referenceRow)
            let target = "\(Fixtures.folder)/runs/\(precision)"
            try FileManager.default.createDirectory(atPath: target, withIntermediateDirectories: true)
            for name in ["config.yaml", "metrics.jsonl"] { try bytes("run/\(name)").write(to: URL(fileURLWithPath: "\(target)/\(name)")) }
            try OldCheckpoint.beginning(of: bytes("run/checkpoint.safetensors")).write(to: URL(fileURLWithPath: "\(target)/checkpoint.begin"))
        }
    }
}
