import Foundation
import XCTest

final class SearchCommandTests: CommandTestCase {
    /// Few updates, and enough images to hold some out.
    private func search(_ run: String, _ extra: String...) throws -> Result {
        try start(
            "hssl",
            ["search", "tiny.yaml", "--data", "many", "--output", run, "--heads", "convnext,resnet", "--set",
             "data.local_crops=0", "--share", "0.02"] + extra).collect()
    }

    func testSearchThenPretrainWithTheWinner() throws {
        try writeIDX("many", count: 2120)
        let result = try search("found")
        XCTAssertEqual(result.status, 0, result.error)
        let lines = result.output.split(separator: "\n")
        XCTAssertEqual(lines.count, 4, result.output)
        XCTAssertTrue(lines[0].hasPrefix("head ") && lines[3].hasSuffix("reference"), result.output)
        XCTAssertEqual(lines.filter { $0.hasSuffix("winner") }.count, 1, result.output)
        for name in ["config.yaml", "metrics.jsonl", "checkpoint.safetensors", "recipe.yaml", "report.html"] {
            XCTAssertTrue(exists("found/" + name), name)
        }
        // Done already: the same figures again, as one JSON document.
        let again = try search("found", "--resume", "--json", "-", "--threads", "1")
        XCTAssertEqual(again.status, 0, again.error)
        let json = try XCTUnwrap(JSONSerialization.jsonObject(with: Data(again.output.utf8)) as? [String: Any])
        let winner = try XCTUnwrap(json["winner"] as? String)
        XCTAssertTrue(lines.contains { $0.hasPrefix(winner) && $0.hasSuffix("winner") }, result.output)
        XCTAssertEqual(json["held_out_images"] as? Int, 2048)
        let heads = try XCTUnwrap(json["heads"] as? [[String: Any]])
        for key in ["head", "eligible", "gap", "gap_error", "head_loss", "cosine_distance", "cka_distance",
                    "target_perplexity", "effective_rank", "parameters", "multiply_adds"] {
            XCTAssertNotNil(heads[0][key], key)
        }
        let run = try run(
            "hssl", "pretrain", "found/recipe.yaml", "--data", "train", "--output", "run", "--max-steps", "1")
        XCTAssertEqual(run.status, 0, run.error)
        try assertFails(
            1, "other heads: convnext,resnet there, mlp here", "search", "tiny.yaml", "--data", "many", "--output",
            "found", "--heads", "mlp", "--set", "data.local_crops=0", "--share", "0.02", "--resume")
    }

    func testWrongCommandLines() throws {
        func fails(
            _ status: Int32, _ text: String, heads: String = "vit", _ extra: String..., line: UInt = #line
        ) throws {
            let result = try start(
                "hssl", ["search", "tiny.yaml", "--data", "train", "--output", "run", "--heads", heads] + extra
            ).collect()
            XCTAssertEqual(result.status, status, result.error, line: line)
            XCTAssertTrue(result.errorLines.last?.contains(text) == true, result.error, line: line)
            XCTAssertEqual(result.errorLines.filter { $0.contains("error") }.count, 1, result.error, line: line)
        }
        try fails(64, "--heads: unknown head 'convnxt'; did you mean convnext?", heads: "convnxt,vit")
        try fails(64, "--heads: head 'vit' is given twice", heads: "vit,vit")
        try fails(64, "--share must be above 0", "--share", "0")
        try fails(1, "64 images are too few for a search: 2048 are held out")
        try fails(1, "auxiliary.family is none", "--set", "auxiliary.family=none")
        XCTAssertFalse(exists("run"))
        try assertFails(64, "--heads", "search", "tiny.yaml", "--data", "train", "--output", "run")
    }
}
