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
