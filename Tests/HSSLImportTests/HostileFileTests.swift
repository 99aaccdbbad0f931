import Foundation
import HSSLFormats
import XCTest

@testable import HSSLImport

/// Pickles that call anything, zips that lie: each is refused with one line, and nothing is run or allocated for it.
final class HostileFileTests: XCTestCase {
    private func read(_ file: PyTorchFile) throws -> PickleContent {
        try file.bytes.withUnsafeBytes { try TorchFile.read($0) }.0
    }

    private func refusal(_ file: PyTorchFile, line: UInt = #line) -> String {
        do {
            _ = try read(file)
            XCTFail("was accepted", line: line)
            return ""
        } catch let fault as ForeignFault {
            XCTAssertFalse(fault.reason.contains("\n"), fault.reason, line: line)
            return fault.reason
        } catch {
            XCTFail("\(error)", line: line)
            return ""
        }
    }

    /// {"w": tensor} over one storage of 6 floats.
    private func valid(
        count: Int = 6, offset: Int = 0, shape: [Int] = [2, 3], strides: [Int] = [3, 1], type: String = "FloatStorage",
        bytes: Int = 24
    ) -> PyTorchFile {
        var pickle = PickleWriter()
        pickle.op("}")
        pickle.text("w")
        pickle.tensor(type: type, count: count, offset: offset, shape: shape, strides: strides)
        pickle.op("s")
        pickle.op(".")
        return PyTorchFile(pickle: pickle.bytes, storages: [("0", [UInt8](repeating: 1, count: bytes))])
    }

    private func pickle(_ body: (inout PickleWriter) -> Void) -> PyTorchFile {
        var writer = PickleWriter()
        body(&writer)
        return PyTorchFile(pickle: writer.bytes)
    }

    func testAcceptsWhatPyTorchWrites() throws {
        XCTAssertEqual(try read(valid()).tensors.first?.shape, [2, 3])
        var long = valid()
        long.is64Bit = true
        XCTAssertEqual(try read(long).tensors.count, 1)
        XCTAssertEqual(try read(valid(shape: [3, 2], strides: [1, 3])).tensors.first?.strides, [1, 3])
        XCTAssertEqual(try read(valid(shape: [0, 4], strides: [4, 1])).tensors.first?.count, 0)
    }

    func testNamesEveryClassThatItDoesNotRun() {
        for (module, name) in [
            ("os", "system"), ("builtins", "eval"), ("posix", "system"), ("subprocess", "Popen"), ("torch", "load"),
            ("torch._utils", "_rebuild_sparse_tensor"), ("torch._utils", "_rebuild_qtensor"),
            ("numpy.core.multiarray", "scalar"), ("torch", "ComplexFloatStorage"),
        ] {
            let reason = refusal(
                pickle {
                    $0.global(module, name)
                    $0.op("(")
                    $0.text("touch /tmp/owned")
                    $0.op("t")
                    $0.op("R")
                    $0.op(".")
                })
            XCTAssertTrue(reason.contains("\(module).\(name)"), reason)
        }
    }

    func testNamesEveryOpcodeThatItDoesNotKnow() {
        let known = Set(".(01NJKMGXBCTU]aet)}suqrhjcQRb".utf8)
            .union([0x80, 0x81, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x8d, 0x8e, 0x93, 0x94, 0x95])
        for opcode in UInt8.min...UInt8.max where !known.contains(opcode) {
            let reason = refusal(pickle { $0.raw([opcode]) })
            XCTAssertTrue(reason.contains("opcode 0x\(String(opcode, radix: 16))"), reason)
        }
    }

    func testRefusesBrokenPickles() {
        for body in [
            [], [0x2E], Array("}".utf8), Array("t.".utf8), Array("R.".utf8), Array("h\u{5}.".utf8), Array("(((.".utf8),
            Array("}}s.".utf8), Array("]u.".utf8), Array("Q.".utf8), Array("X\u{7f}\u{7f}\u{7f}\u{7f}a.".utf8),
            Array("cos\n".utf8), Array("}b.".utf8), Array(")R.".utf8), Array("NN\u{81}.".utf8), Array("G1.".utf8),
        ] {
            XCTAssertFalse(refusal(pickle { $0.raw(body) }).isEmpty)
        }
        // Deep nesting is flat in memory.
        let deep = pickle {
            $0.raw([UInt8](repeating: UInt8(ascii: "("), count: 300_000))
            $0.raw([UInt8](repeating: UInt8(ascii: "t"), count: 300_000))
            $0.op(".")
        }
        XCTAssertNoThrow(try read(deep))
    }

    func testRefusesTensorsThatAreNone() {
        XCTAssertTrue(refusal(valid(offset: 1)).contains("beyond"))
        XCTAssertTrue(refusal(valid(shape: [4, 3])).contains("beyond"))
        XCTAssertTrue(refusal(valid(shape: [2, 3], strides: [Int(Int32.max), 1])).contains("beyond"))
        XCTAssertTrue(refusal(valid(shape: [1000, 1000], strides: [0, 0])).contains("repeats"))
        XCTAssertTrue(refusal(valid(shape: [-1, 3])).contains("cannot be"))
        XCTAssertTrue(refusal(valid(strides: [3])).contains("cannot be"))
        XCTAssertTrue(refusal(valid(strides: [3, -1])).contains("cannot be"))
        let most = Int(Int32.max)
        XCTAssertFalse(refusal(valid(shape: [most, most, most, most], strides: [1, 1, 1, 1])).isEmpty)
        // The storage is shorter or longer than the pickle says.
        XCTAssertTrue(refusal(valid(count: 7)).contains("24 bytes"))
        XCTAssertTrue(refusal(valid(bytes: 28)).contains("28 bytes"))
        XCTAssertTrue(refusal(valid(type: "DoubleStorage")).contains("48"))
        var absent = valid()
        absent.entries.removeAll { $0.name == "a/data/0" }
        XCTAssertTrue(refusal(absent).contains("is not in the zip"))
    }

    func testRefusesZipsThatLie() {
        func changed(_ change: (inout PyTorchFile) -> Void) -> String {
            var file = valid()
            change(&file)
            return refusal(file)
        }
        XCTAssertTrue(changed { $0.entries[0].method = 8 }.contains("compressed"))
        XCTAssertTrue(changed { $0.entries[0].flags = 1 }.contains("encrypted"))
        XCTAssertTrue(changed { $0.entries[2].statedSize = 1 << 31 }.contains("beyond its data"))
        XCTAssertTrue(changed { $0.entries[2].statedSize = 60 }.contains("overlap"))
        XCTAssertTrue(changed { $0.entries[0].checksum = 1 }.contains("CRC-32"))
        XCTAssertTrue(changed { $0.statedCount = 60_000 }.contains("damaged"))
        XCTAssertTrue(changed { $0.statedCount = 1 }.contains("longer than its entries"))
        for name in ["/etc/passwd", "a/../../x", "a\\x", "a//x", "", "a\0b"] {
            XCTAssertTrue(changed { $0.entries[3].name = name }.contains("no path inside it"), name)
        }
        XCTAssertTrue(changed { $0.entries[3].name = "a/data/0" }.contains("twice"))
        XCTAssertTrue(changed { $0.entries[3].name = "b/data.pkl" }.contains("without a PyTorch pickle"))
        XCTAssertTrue(changed { $0.entries[3].name = "a/constants.pkl" }.contains("TorchScript"))
        XCTAssertTrue(changed { $0.entries[1].bytes = Array("big".utf8) }.contains("big-endian"))
    }

    func testEveryTruncationAndEveryFlippedByteIsRefusedOrHarmless() {
        let bytes = valid().bytes
        for length in 0..<bytes.count {
            XCTAssertThrowsError(try bytes[..<length].withUnsafeBytes { try TorchFile.read($0) }, "\(length) bytes")
        }
        for index in bytes.indices {
            for flip in [1, 0x80, 0xFF] as [UInt8] {
                var damaged = bytes
                damaged[index] ^= flip
                _ = try? damaged.withUnsafeBytes { try TorchFile.read($0) }
            }
        }
    }

    func testReadsEveryTypeThatItConverts() throws {
        let path = NSTemporaryDirectory() + "hssl-import-\(getpid()).pth"
        defer { unlink(path) }
        func load(_ type: String, _ data: [UInt8], count: Int) throws -> [Float] {
            var pickle = PickleWriter()
            pickle.op("}")
            pickle.text("w")
            // Column-major: values come back in the order of the shape.
            pickle.tensor(type: type, count: count, shape: [2, count / 2], strides: [1, 2])
            pickle.op("s")
            pickle.op(".")
            try AtomicFile.write(PyTorchFile(pickle: pickle.bytes, storages: [("0", data)]).bytes, to: path)
            let checkpoint = try ForeignCheckpoint.open(path: path)
            return try XCTUnwrap(checkpoint.tensors.first).load()
        }
        let values: [Float] = [1, -2, 0.5, 4]
        let expected: [Float] = [1, 0.5, -2, 4]
        XCTAssertEqual(try load("FloatStorage", values.flatMap { little(Int($0.bitPattern), 4) }, count: 4), expected)
        XCTAssertEqual(
            try load("BFloat16Storage", values.flatMap { little(Int($0.bitPattern >> 16), 2) }, count: 4), expected)
        XCTAssertEqual(
            try load("HalfStorage", [0x3C00, 0xC000, 0x3800, 0x4400].flatMap { little($0, 2) }, count: 4), expected)
        XCTAssertEqual(
            try load(
                "DoubleStorage",
                values.flatMap { little(Int(bitPattern: UInt(Double($0).bitPattern)), 8) }, count: 4), expected)
        XCTAssertThrowsError(try load("LongStorage", [UInt8](repeating: 0, count: 32), count: 4)) {
            XCTAssertTrue("\($0)".contains("int64"), "\($0)")
        }
    }
}
