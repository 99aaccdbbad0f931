import Foundation
import XCTest

/// `hssl bank`, `hssl distill --bank` and `hssl inspect` of a bank, as a user meets them.
final class BankCommandTests: CommandTestCase {
    override func setUpWithError() throws {
        try super.setUpWithError()
        try pretrain("taught", "--max-steps", "1")
        let result = try run("hssl", "export", "taught", "--output", "teacher.safetensors")
        XCTAssertEqual(result.status, 0, result.error)
        try """
            model:      {architecture: vit_nano, image_size: 16, patch_size: 8}
            schedule:   {epochs: 2, batch_size: 16}
            distill:    {anchors: 24, draws: 2, rank: 6}

            """.write(toFile: root + "/distil.yaml", atomically: true, encoding: .utf8)
    }

    @discardableResult
    private func call(_ command: String, _ output: String, _ extra: String..., status: Int32 = 0) throws -> Result {
        let result = try start(
            "hssl",
            [command, "distil.yaml", "--teacher", "teacher.safetensors", "--data", "train", "--output", output,
             "--threads", "1"] + extra).collect()
        XCTAssertEqual(result.status, status, result.error)
        return result
    }

    func testAStudentOfABankThatIsFilledByTheWay() throws {
        let first = try call("distill", "run", "--bank", "banks/one")
        XCTAssertTrue(first.error.contains("bank 100% 64/64 images"), first.error)
        XCTAssertTrue(first.error.contains("views: 2 draws an image; a global feature of 96 channels"), first.error)
        // The next one asks nobody: the same run, to the bit.
        let second = try call("distill", "again", "--bank", "banks/one/")
        XCTAssertFalse(second.error.contains("bank 100%"), second.error)
        XCTAssertTrue(try bytes("run/checkpoint.safetensors") == bytes("again/checkpoint.safetensors"))
        // And a bank made beforehand is the same bank.
        try call("bank", "banks/two")
        for file in ["bank.json", "basis.safetensors", "shard-00000.safetensors"] {
            XCTAssertTrue(try bytes("banks/one/\(file)") == bytes("banks/two/\(file)"), file)
        }
        // Resumed with the bank; not without it.
        try call("distill", "stopped", "--bank", "banks/two", "--max-steps", "5")
        let without = try call("distill", "stopped", "--resume", status: 1)
        XCTAssertTrue(
            without.error.contains("learnt from a bank of 2 draws, not a teacher that runs (--bank)"), without.error)
        try call("distill", "stopped", "--bank", "banks/two", "--resume")
        XCTAssertTrue(try bytes("run/checkpoint.safetensors") == bytes("stopped/checkpoint.safetensors"))
    }

    func testInspect() throws {
        try call("bank", "bank")
        let text = try run("hssl", "inspect", "bank")
        XCTAssertEqual(text.status, 0, text.error)
        for part in [
            "view bank: complete, every checksum as recorded; 0 images without answers",
            "teacher: teacher.safetensors",
            "64 images, digest ", "3×3 cells of 6 of 96 coordinates; 158 bytes a view", "cells: ",
            "data.flip_probability 0.5",
        ] { XCTAssertTrue(text.output.contains(part), text.output) }
        let json = try run("hssl", "inspect", "bank", "--json", "-")
        let document = try XCTUnwrap(
            JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [String: Any], json.output)
        XCTAssertEqual(document["bytes_per_view"] as? Int, 158)
        XCTAssertEqual(document["complete"] as? Bool, true)
        try FileManager.default.removeItem(atPath: root + "/bank/shard-00000.safetensors")
        let part = try run("hssl", "inspect", "bank")
        XCTAssertTrue(part.output.contains("view bank: not complete: 0 of 1 shards, 0 images"), part.output)
        try assertFails(1, "taught: is a folder, not a file", "inspect", "taught")
    }

    func testBadInput() throws {
        try call("bank", "bank")
        func fails(_ text: String, _ arguments: String..., status: Int32 = 1) throws {
            let result = try start(
                "hssl", ["bank", "distil.yaml", "--data", "train", "--threads", "1"] + arguments).collect()
            XCTAssertEqual(result.status, status, result.error)
            let last = result.errorLines.last.map(String.init) ?? ""
            XCTAssertTrue(last.hasPrefix("hssl: error: ") && last.contains(text), "\(last) does not say \(text)")
        }
        let usual = ["--teacher", "teacher.safetensors", "--output", "bank"]
        try fails("bank: holds a view bank (bank.json); give --resume", usual[0], usual[1], usual[2], usual[3])
        try fails(
            "bank: has 2 draws an image, distill.draws is 3", usual[0], usual[1], usual[2], usual[3], "--resume",
            "--set",
            "distill.draws=3")
        try fails(
            "none: no bank to resume; --resume=auto", usual[0], usual[1], "--output", "none", "--resume")
        XCTAssertFalse(exists("none"))
        try fails("nobody.safetensors: cannot open", "--teacher", "nobody.safetensors", "--output", "new")
        try fails(
            "--memory-limit: 1M is too little", "--teacher", "teacher.safetensors", "--output", "new",
            "--memory-limit", "1M")
        try fails(
            "distill.draws is not known to objective ibot", "--teacher", "teacher.safetensors", "--output", "new",
            "--set",
            "objective.name=ibot")
        XCTAssertFalse(exists("new/bank.json"))
        try assertFails(64, "--teacher", "bank", "distil.yaml", "--data", "train", "--output", "new")
        let other = try call("distill", "run", "--bank", "bank", "--seed", "9", status: 1)
        XCTAssertTrue(
            other.error.contains("bank: its views were drawn with schedule.seed \"0\", not \"9\""), other.error)
        XCTAssertFalse(exists("run"))
        // Nothing to do.
        XCTAssertTrue(try call("bank", "bank", "--resume").error.contains("resuming after 64 of 64 images"))
    }

    /// A full disk ends the run with one line; what is there goes on.
    func testFullDisk() throws {
        let full = try start(
            "hssl",
            ["bank", "distil.yaml", "--teacher", "teacher.safetensors", "--data", "train", "--output", "bank",
             "--threads", "1"], shell: "ulimit -f 2").collect()
        XCTAssertEqual(full.status, 1, full.error)
        XCTAssertTrue(full.error.contains("bank/basis.safetensors: cannot write: File too large"), full.error)
        try call("bank", "bank", "--resume")
        try call("bank", "straight")
        XCTAssertTrue(try bytes("bank/shard-00000.safetensors") == bytes("straight/shard-00000.safetensors"))
    }
}
