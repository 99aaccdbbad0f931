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
            ("--labels-per-class", ["--labels-per-class", "0"]), ("--l2", ["--l2", "1,x"]), ("--draws", ["--draws", "0"]),
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
