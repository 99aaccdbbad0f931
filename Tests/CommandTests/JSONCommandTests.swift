import Foundation
import XCTest

/// `--json`: refused before the work where it cannot be written, and never at the cost of the figures.
final class JSONCommandTests: CommandTestCase {
    /// By another name as well.
    func testWhatIsReadIsNotWrittenOver() throws {
        let recipe = try bytes("tiny.yaml")
        try FileManager.default.createSymbolicLink(
            atPath: root + "/figures.json", withDestinationPath: root + "/tiny.yaml")
        let knn = ["evaluate", "knn", "--untrained", "tiny.yaml", "--train", "train", "--test", "train", "--json"]
        let search = ["search", "tiny.yaml", "--data", "train", "--output", "run", "--heads", "mlp,vit", "--json"]
        for command in [knn, search] {
            let refused = try start("hssl", command + ["figures.json"]).collect()
            XCTAssertEqual(refused.status, 1)
            XCTAssertEqual(
                refused.errorLines.last,
                "hssl: error: --json figures.json: is what is read, and would be lost: give another file")
            XCTAssertEqual(try bytes("tiny.yaml"), recipe)
        }
    }

    func testFiguresAreShownWhereTheirDocumentCannotBeWritten() throws {
        let bench = [
            "bench", "extract", "--architecture", "vit_nano", "--image-size", "28", "--patch-size", "4", "--steps", "1",
            "--json",
        ]
        let refused = try start("hssl", bench + ["none/figures.json"]).collect()
        XCTAssertEqual(refused.status, 1)
        XCTAssertEqual(refused.output, "", "refused before the work")
        XCTAssertTrue(
            refused.error.contains("error: --json none/figures.json: cannot create a file in its folder"),
            refused.error)
        // Full when the figures are there.
        let full = try start("hssl", bench + ["/dev/full"]).collect()
        XCTAssertEqual(full.status, 1)
        XCTAssertTrue(full.output.contains("images/s"), full.output)
        XCTAssertTrue(full.error.contains("error: --json /dev/full: cannot write: No space left on device"), full.error)
        // Neither the document nor what people read vanishes without a word.
        let retrieval = ["evaluate", "retrieval", "--raw-pixels", "4", "--data", "train"]
        for command in [["recipe"], ["recipe", "tiny.yaml"], retrieval] {
            let full = try start("hssl", command, shell: "exec >/dev/full").collect()
            XCTAssertEqual(full.status, 1, "\(command)")
            XCTAssertEqual(
                full.errorLines.last, "hssl: error: standard output: could not be written whole", full.error)
            XCTAssertEqual(try start("hssl", command, shell: "exec >&-").collect().status, 0, "nobody wants to know")
        }
        let closed = try start("hssl", bench + ["-"], shell: "exec >/dev/full").collect()
        XCTAssertEqual(closed.status, 1)
        XCTAssertTrue(
            closed.error.contains("images/s") && closed.error.contains("--json -: standard output is closed or full"),
            closed.error)
        let good = try start("hssl", bench + ["figures.json"]).collect()
        XCTAssertEqual(good.status, 0, good.error)
        XCTAssertTrue(good.output.contains("images/s"))
        XCTAssertNotNil(try JSONSerialization.jsonObject(with: bytes("figures.json")) as? [String: Any])
    }
}
