import Foundation
import XCTest

final class EvaluateCommandTests: CommandTestCase {
    private func document(_ text: String) throws -> [String: Any] {
        try XCTUnwrap(JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any], text)
    }

    func testFiguresInJSON() throws {
        try pretrain("run", "--max-steps", "2")
        XCTAssertEqual(try run("hssl", "export", "run", "--output", "base.safetensors").status, 0)
        let result = try run(
            "hssl", "evaluate", "knn", "--model", "base.safetensors", "--train", "train", "--test", "t10k", "--k",
            "1,5,20", "--json", "-")
        XCTAssertEqual(result.status, 0, result.error)
        let figures = try document(result.output)
        XCTAssertEqual(figures["test_images"] as? Int, 20)
        let rows = try XCTUnwrap(figures["knn"] as? [[String: Any]])
        XCTAssertEqual(rows.map { $0["k"] as? Int }, [1, 5, 20])
        for row in rows {
            let (top1, top5) = (try XCTUnwrap(row["top1"] as? Double), try XCTUnwrap(row["top5"] as? Double))
            XCTAssertTrue((0...1).contains(top1) && top1 <= top5, "fractions: \(row)")
        }
        // The t10k images are the first train images, so their nearest neighbour is themselves.
        XCTAssertEqual(rows[0]["top1"] as? Double, 1)
        let toFile = try run(
            "hssl", "evaluate", "knn", "--model", "base.safetensors", "--train", "train", "--test", "t10k", "--k",
            "1,5,20", "--json", "out.json")
        XCTAssertEqual(toFile.status, 0)
        XCTAssertTrue(toFile.output.contains("k = 1: top-1 100.0 %"), toFile.output)
        XCTAssertEqual(try String(contentsOfFile: root + "/out.json", encoding: .utf8), result.output)
        // The baselines take the same way.
        for baseline in [["--raw-pixels", "12"], ["--untrained", "tiny.yaml"]] {
            let baselineResult = try start(
                "hssl",
                ["evaluate", "knn"] + baseline
                + ["--train", "train", "--test", "t10k", "--k", "1", "--json", "-"]).collect()
            XCTAssertEqual(baselineResult.status, 0, baselineResult.error)
            let first = (try document(baselineResult.output)["knn"] as? [[String: Any]])?.first
            XCTAssertEqual(first?["top1"] as? Double, 1)
        }
    }

    /// Copies of one picture under two labels: the label that has most of them wins, not the one that sorts first.
    func testEquallyNearReferencesAreKeptWhateverTheirPlace() throws {
        for (folder, copies) in [("train/few", 12), ("train/many", 60), ("test/many", 3)] {
            try FileManager.default.createDirectory(atPath: "\(root)/\(folder)", withIntermediateDirectories: true)
            for copy in 0..<copies {
                try encodePNG(width: 4, height: 4, pixels: [UInt8](repeating: 90, count: 48))
                    .write(to: URL(fileURLWithPath: "\(root)/\(folder)/\(copy).png"))
            }
        }
        let result = try run(
            "hssl", "evaluate", "knn", "--raw-pixels", "4", "--train", "train", "--test", "test", "--k", "10", "--json",
            "-")
        XCTAssertEqual(result.status, 0, result.error)
        let first = try XCTUnwrap((try document(result.output)["knn"] as? [[String: Any]])?.first)
        XCTAssertEqual(first["top1"] as? Double, 1, result.output)
    }

    func testLinearProbe() throws {
        func figures(_ arguments: [String]) throws -> [String: Any] {
            let sets = ["--raw-pixels", "12", "--train", "train", "--test", "t10k", "--json", "-"]
            let result = try start("hssl", ["evaluate", "linear"] + sets + arguments).collect()
            XCTAssertEqual(result.status, 0, result.error)
            return try document(result.output)
        }
        let all = try figures([])
        XCTAssertEqual(all["labels"] as? String, "all")
        XCTAssertEqual(all["dimension"] as? Int, 144, "grey images have one channel")
        // The t10k images are among the train images.
        XCTAssertGreaterThan(try XCTUnwrap(all["top1"] as? Double), 0.9)
        XCTAssertEqual((all["draws"] as? [Any])?.count, 1)
        let few = try figures(["--labels-per-class", "1", "--draws", "3", "--threads", "1"])
        XCTAssertEqual((few["labels"] as? [String: Int]), ["per_class": 1])
        let draws = try XCTUnwrap(few["draws"] as? [[String: Any]])
        XCTAssertEqual(draws.map { $0["l2"] as? Double }, [0.1, 0.1, 0.1])
        XCTAssertEqual(
            try XCTUnwrap(few["top1"] as? Double), draws.reduce(0) { $0 + ($1["top1"] as? Double ?? 0) } / 3,
            accuracy: 1e-12)
        let again = try figures(["--labels-per-class", "1", "--draws", "3", "--threads", "2"])
        XCTAssertEqual(NSDictionary(dictionary: again), NSDictionary(dictionary: few), "whatever the threads")
        let share = try figures(["--fraction", "0.5", "--draws", "1", "--l2", "0.01"])
        XCTAssertEqual((share["draws"] as? [[String: Any]])?.first?["l2"] as? Double, 0.01)
        for (text, arguments) in [
            ("--fraction", ["--fraction", "1.5"]), ("--fraction and", ["--fraction", "0.1", "--labels-per-class", "1"]),
            ("--labels-per-class", ["--labels-per-class", "0"]), ("--l2", ["--l2", "1,x"]),
            ("--draws", ["--draws", "0"]),
        ] {
            let result = try start(
                "hssl", ["evaluate", "linear", "--raw-pixels", "12", "--train", "train", "--test", "t10k"] + arguments
            ).collect()
            XCTAssertEqual(result.status, 64, result.error)
            XCTAssertTrue(result.errorLines.count == 1 && result.error.contains(text), result.error)
        }
        let result = try run(
            "hssl", "evaluate", "linear", "--raw-pixels", "12", "--train", "train", "--test", "t10k",
            "--labels-per-class", "1000")
        XCTAssertEqual(result.status, 1)
        XCTAssertTrue(result.error.contains("fewer than the 1000 labels asked for"), result.error)
    }

    /// Features once, figures often: the same as from the model.
    func testEmbeddingsInPlaceOfAModel() throws {
        try pretrain("run", "--max-steps", "2")
        XCTAssertEqual(try run("hssl", "export", "run", "--output", "base.safetensors").status, 0)
        for (set, suffix) in [("train", "npy"), ("t10k", "safetensors")] {
            let result = try run(
                "hssl-extract", "--model", "base.safetensors", set, "--output", "\(set).\(suffix)")
            XCTAssertEqual(result.status, 0, result.error)
        }
        let stored = ["--train-embeddings", "train.npy", "--test-embeddings", "t10k.safetensors"]
        let direct = ["--model", "base.safetensors", "--train", "train", "--test", "t10k"]
        for command in ["knn", "linear"] {
            let results = try [stored, direct].map {
                try start("hssl", ["evaluate", command] + $0 + ["--json", "-"]).collect()
            }
            XCTAssertEqual(results.map(\.status), [0, 0], results[0].error)
            XCTAssertEqual(results[0].output, results[1].output, command)
        }
        let sources = [["--embeddings", "t10k.safetensors"], ["--model", "base.safetensors", "--data", "t10k"]]
        let retrieval = try sources.map {
            try start("hssl", ["evaluate", "retrieval", "--k", "1,3", "--json", "-"] + $0).collect()
        }
        XCTAssertEqual(retrieval.map(\.status), [0, 0], retrieval[0].error)
        XCTAssertEqual(retrieval[0].output, retrieval[1].output)
        let figures = try document(retrieval[0].output)
        XCTAssertEqual(figures["queries"] as? Int, 20)
        XCTAssertEqual((figures["recall"] as? [[String: Any]])?.map { $0["k"] as? Int }, [1, 3])

        let page = try run("hssl", "report", "embeddings", "train.npy", "--output", "page.html")
        XCTAssertEqual(page.status, 0, page.error)
        let html = try String(contentsOfFile: root + "/page.html", encoding: .utf8)
        XCTAssertTrue(html.hasPrefix("<!doctype html>") && html.contains("Near-duplicates"))
        XCTAssertTrue(html.contains("data:image/png;base64,"), "thumbnails of IDX images")
        XCTAssertFalse(html.contains("http://") || html.contains("https://") || html.contains("<script"))
        XCTAssertEqual(
            try run(
                "hssl-extract", "--model", "base.safetensors", "t10k", "--features", "patch", "--output", "patches.npy"
            ).status, 0)
        XCTAssertEqual(try run("hssl", "report", "embeddings", "patches.npy").status, 0)
        XCTAssertTrue(
            try String(contentsOfFile: root + "/patches.npy.html", encoding: .utf8).contains("red, green and blue"))

        func fails(_ status: Int32, _ text: String, _ arguments: [String], line: UInt = #line) throws {
            let result = try start("hssl", arguments).collect()
            XCTAssertEqual(result.status, status, result.error, line: line)
            XCTAssertTrue(result.error.contains(text), "\(result.error) does not say '\(text)'", line: line)
        }
        try fails(1, "is what is read", ["report", "embeddings", "train.npy", "--output", "./train.npy"])
        try fails(1, "is what is read", ["report", "embeddings", "train.npy", "--output", "train.npy.index.jsonl"])
        let knn = ["evaluate", "knn"]
        try fails(64, "--model would do nothing", knn + stored + ["--model", "base.safetensors"])
        try fails(64, "--features would do nothing", knn + stored + ["--features", "mean"])
        try fails(64, "--train-embeddings and --test-embeddings", knn + ["--train-embeddings", "train.npy"])
        try fails(64, "--data or --embeddings", ["evaluate", "retrieval", "--raw-pixels", "4"])
        try fails(
            1, "patch features", knn + ["--train-embeddings", "patches.npy", "--test-embeddings", "patches.npy"])
        try fails(1, "--memory-limit 1048576 is too small", knn + stored + ["--memory-limit", "1M"])
        for command in [
            knn + stored, ["evaluate", "linear"] + stored, ["evaluate", "linear"] + direct,
            ["evaluate", "retrieval"] + sources[0], ["evaluate", "retrieval"] + sources[1],
            ["report", "embeddings", "train.npy"], ["report", "embeddings", "patches.npy"],
        ] {
            try fails(1, "--memory-limit 1048576 is too small: ", command + ["--memory-limit", "1M"])
            XCTAssertEqual(try start("hssl", command + ["--memory-limit", "1G"]).collect().status, 0, "\(command)")
        }
        try FileManager.default.removeItem(atPath: root + "/train.npy.index.jsonl")
        try fails(1, "train.npy.index.jsonl: cannot open", knn + stored)
    }

    /// Masks that say light or dark, which patches of any model can tell.
    func testSegmentation() throws {
        try pretrain("run", "--max-steps", "1")
        XCTAssertEqual(try run("hssl", "export", "run", "--output", "base.safetensors").status, 0)
        func pair(_ set: String, _ number: Int, maskSide: Int = 12) throws {
            for kind in ["images", "masks"] {
                let side = kind == "masks" ? maskSide : 12
                let pixels = (0..<side * side).flatMap { place -> [UInt8] in
                    let isLight = (place % side / 4 + place / side / 4 + number) % 2 == 0
                    return [UInt8](repeating: isLight ? (kind == "masks" ? 1 : 250) : 0, count: 3)
                }
                let folder = "\(root)/\(set)/\(kind)"
                try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
                try encodePNG(width: side, height: side, pixels: pixels)
                    .write(to: URL(fileURLWithPath: "\(folder)/\(number).png"))
            }
        }
        for number in 0..<6 { try pair("a", number) }
        for number in 0..<3 { try pair("b", number) }
        let sets = [
            "--train-images", "a/images", "--train-masks", "a/masks", "--test-images", "b/images", "--test-masks",
            "b/masks",
        ]
        let command = ["evaluate", "segmentation", "--model", "base.safetensors"] + sets
        let result = try start("hssl", command + ["--json", "-"]).collect()
        XCTAssertEqual(result.status, 0, result.error)
        let figures = try document(result.output)
        XCTAssertGreaterThan(try XCTUnwrap(figures["miou"] as? Double), 0.6, result.output)
        XCTAssertEqual(
            (figures["classes"] as? [[String: Any]])?.map { $0["color"] as? String }, ["#000000", "#010101"])
        XCTAssertEqual(try start("hssl", command + ["--ignore", "red"]).collect().status, 64)
        // One class is left: nothing to learn.
        let alone = try start("hssl", command + ["--ignore", "1"]).collect()
        XCTAssertEqual(alone.status, 1)
        XCTAssertTrue(alone.error.contains("one class only"), alone.error)
        try pair("b", 1, maskSide: 13)
        let other = try start("hssl", command).collect()
        XCTAssertEqual(other.status, 1)
        XCTAssertTrue(other.error.contains("b/masks/1.png: 13 x 13 pixels, its image 12 x 12"), other.error)
        try FileManager.default.removeItem(atPath: root + "/b/masks/1.png")
        let missing = try start("hssl", command).collect()
        XCTAssertEqual(missing.status, 1)
        XCTAssertTrue(missing.error.contains("b/images/1.png: has no mask in b/masks"), missing.error)
    }

    func testErrors() throws {
        try pretrain("run", "--max-steps", "1")
        let data = ["--train", "train", "--test", "t10k"]
        func fails(_ status: Int32, _ text: String, _ arguments: [String], line: UInt = #line) throws {
            let result = try start("hssl", ["evaluate", "knn"] + arguments).collect()
            XCTAssertEqual(result.status, status, result.error, line: line)
            XCTAssertTrue(
                result.error.hasPrefix("hssl: error: ") && result.error.contains(text),
                "\(result.error) does not say '\(text)'", line: line)
            XCTAssertEqual(result.errorLines.count, 1, result.error, line: line)
            XCTAssertEqual(result.output, "", "nothing but the document goes to standard output", line: line)
        }
        try fails(1, "run/checkpoint.safetensors: not an HSSL model", ["--model", "run/checkpoint.safetensors"] + data)
        try fails(1, "nope.safetensors: cannot open", ["--model", "nope.safetensors"] + data + ["--json", "-"])
        try fails(1, "nope: neither a folder nor", ["--raw-pixels", "12", "--train", "train", "--test", "nope"])
        try fails(64, "--model, --raw-pixels", data)
        try fails(64, "--model, --raw-pixels", ["--model", "m", "--raw-pixels", "12"] + data)
        try fails(64, "--k ", ["--raw-pixels", "12", "--k", "0"] + data)
        try fails(64, "--temperature", ["--raw-pixels", "12", "--temperature", "0"] + data)
        try FileManager.default.removeItem(atPath: root + "/t10k-labels-idx1-ubyte")
        try fails(1, "t10k: has no labels", ["--raw-pixels", "12"] + data)
    }
}
