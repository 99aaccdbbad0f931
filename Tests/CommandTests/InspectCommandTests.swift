import Foundation
import HSSLFormats
import XCTest

final class InspectCommandTests: CommandTestCase {
    func testListsTensorsAndMetadata() throws {
        try pretrain("run", "--max-steps", "2")
        let text = try run("hssl", "inspect", "run/checkpoint.safetensors")
        XCTAssertEqual(text.status, 0, text.error)
        XCTAssertTrue(
            text.output.contains("student.base.blocks.0.attn.qkv.weight") && text.output.contains("288×96"),
            text.output)
        XCTAssertTrue(text.output.contains("hssl.step: 2"))
        let json = try run("hssl", "inspect", "run/checkpoint.safetensors", "--json", "-")
        XCTAssertEqual(json.status, 0)
        XCTAssertEqual(json.error, "")
        let document = try XCTUnwrap(
            JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [String: Any],
            "one JSON document and nothing else")
        let tensors = try XCTUnwrap(document["tensors"] as? [[String: Any]])
        let file = try SafetensorsFile(path: root + "/run/checkpoint.safetensors")
        XCTAssertEqual(tensors.count, file.count)
        XCTAssertEqual(Set(tensors.compactMap { $0["name"] as? String }), Set(file.names))
        XCTAssertEqual((document["metadata"] as? [String: Any])?["hssl.step"] as? String, "2")
    }

    func testForeignAndHostileFiles() throws {
        try SafetensorsWriter.write(
            path: root + "/foreign.safetensors",
            tensors: [SafetensorsTensor(name: "evil\u{1B}[2Jname", shape: [2], values: [Float(1), 2])], metadata: [:])
        let foreign = try run("hssl", "inspect", "foreign.safetensors")
        XCTAssertEqual(foreign.status, 0, foreign.error)
        XCTAssertFalse(foreign.output.contains("\u{1B}"), "a name must not reach the terminal as a control sequence")
        try assertFails(1, "tiny.yaml: not a valid safetensors file", "inspect", "tiny.yaml")
        try assertFails(1, "nope: cannot open: No such file or directory", "inspect", "nope")
        let huge: [UInt8] = [UInt8](repeating: 0xFF, count: 8) + Array("{}".utf8)
        try Data(huge).write(to: URL(fileURLWithPath: root + "/huge.safetensors"))
        try assertFails(1, "huge.safetensors: not a valid safetensors file", "inspect", "huge.safetensors")
        try assertFails(64, "--json", "inspect", "foreign.safetensors", "--json")
    }

    func testVersionHelpAndInstructionSets() throws {
        let version = try run("hssl", "--version")
        XCTAssertEqual(version.status, 0)
        let isa = try XCTUnwrap(version.output.range(
            of: #"^hssl \d+\.\d+\.\d+ \((scalar|avx2|avx512|avx512vnni|neon)\)\n$"#,
            options: .regularExpression))
        XCTAssertFalse(isa.isEmpty)
        XCTAssertTrue(try run("hssl", "--version", environment: ["HSSL_ISA": "scalar"]).output.hasSuffix("(scalar)\n"))
        try assertFails(
            1, "HSSL_ISA: 'bogus' is not one of scalar, avx2", "--version", environment: ["HSSL_ISA": "bogus"])
        #if arch(x86_64)
        try assertFails(
            1, "HSSL_ISA: this machine or build has no row for 'neon'", "inspect", "x",
            environment: ["HSSL_ISA": "neon"])
        #endif
        let commands = [
            [], ["pretrain"], ["search"], ["distill"], ["bank"], ["import"], ["export"], ["evaluate"],
            ["evaluate", "knn"], ["evaluate", "linear"], ["evaluate", "retrieval"], ["evaluate", "segmentation"],
            ["inspect"], ["bench"],
        ]
        for command in commands {
            let help = try start("hssl", command + ["--help"]).collect()
            XCTAssertEqual(help.status, 0)
            XCTAssertTrue(
                help.output.contains("Examples:\n")
                    && help.output.contains("\n  hssl " + command.joined(separator: " ")),
                "\(command): help without examples:\n\(help.output)")
            // A line that the parser wrapped is two commands to a shell.
            let examples = help.output.components(separatedBy: "Examples:\n").last ?? ""
            for line in examples.components(separatedBy: "USAGE")[0].split(separator: "\n") {
                XCTAssertTrue(line.hasPrefix("  "), "\(command): \(line)")
            }
            XCTAssertEqual(help.error, "")
            XCTAssertEqual(try start("hssl", command + ["--version"]).collect().output, version.output, "\(command)")
        }
        let extract = try run("hssl-extract", "--help")
        XCTAssertTrue(extract.status == 0 && extract.output.contains("Examples:\n  hssl-extract "), extract.output)
        try assertFails(64, "bogus", "bogus")
    }

    /// A reader that leaves early ends the command quietly, as with any filter.
    func testClosedStandardOutput() throws {
        try pretrain("run", "--max-steps", "1")
        let result = try run("hssl", "inspect", "run/checkpoint.safetensors", "--json", "-", shell: "exec >/dev/full")
        XCTAssertEqual(result.status, 1, result.error)
        XCTAssertTrue(result.error.contains("--json -: standard output is closed or full"), result.error)
    }
}
