import Foundation
import TestSupport
import XCTest

@testable import HSSLFormats

/// Files made to break a reader: each is refused with the typed error of its fault, quickly and in little memory.
final class SafetensorsHostileTests: XCTestCase {
    private typealias Fault = SafetensorsError.Fault

    /// A file of `header`, its true length before it, and `dataBytes` zero bytes after it.
    private func file(_ header: some Sequence<UInt8>, dataBytes: Int = 0) -> Data {
        let header = Data(header)
        return withUnsafeBytes(of: UInt64(header.count).littleEndian) { Data($0) } + header + Data(count: dataBytes)
    }

    private func file(_ header: String, dataBytes: Int = 0) -> Data { file(header.utf8, dataBytes: dataBytes) }

    private func tensor(
        _ name: String = "a", dtype: String = "F32", shape: String = "[1]", offsets: String = "[0,4]"
    ) -> String {
        #""\#(name)":{"dtype":"\#(dtype)","shape":\#(shape),"data_offsets":\#(offsets)}"#
    }

    /// Opens the file and returns its fault; checks time and memory.
    private func fault(_ content: Data, _ label: String = #function, line: UInt = #line) throws -> Fault? {
        try withTemporaryFolder { folder in
            let path = folder + "/hostile.safetensors"
            XCTAssertTrue(FileManager.default.createFile(atPath: path, contents: content))
            let memory = residentBytes(peak: false)
            resetPeakMemory()
            let start = processorTime()
            defer {
                if !isInstrumented {
                    XCTAssertLessThan(processorTime() - start, timeLimit, label, line: line)
                    XCTAssertLessThan(residentBytes(peak: true) - memory, 16 << 20, "memory: \(label)", line: line)
                }
            }
            do throws(SafetensorsError) {
                let file = try SafetensorsFile(path: path)
                withExtendedLifetime(file) {}
                return nil
            } catch {
                XCTAssertEqual(error.path, path)
                let text = "\(error)"
                XCTAssertTrue(text.hasPrefix(path + ": "), text)
                XCTAssertFalse(text.contains { $0.isNewline }, "one line: \(text)")
                XCTAssertLessThan(text.utf8.count, path.utf8.count + 1000, "a short line")
                return error.fault
            }
        }
    }

    #if DEBUG
    // Without optimisation the parser is some 30 times slower; the limit of the contract is checked in release.
    private let timeLimit = 10.0
    #else
    private let timeLimit = 0.1
    #endif

    private func residentBytes(peak: Bool) -> Int {
        let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix(peak ? "VmHWM:" : "VmRSS:") }
        return (line?.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0) << 10
    }

    private func resetPeakMemory() {
        try? "5".write(toFile: "/proc/self/clear_refs", atomically: false, encoding: .utf8)
    }

    func testLengths() throws {
        XCTAssertEqual(try fault(Data()), .tooShort(bytes: 0))
        XCTAssertEqual(try fault(Data(count: 7)), .tooShort(bytes: 7))
        XCTAssertEqual(try fault(Data(count: 8)), .headerNotAnObject)
        XCTAssertEqual(try fault(Data(repeating: 0xff, count: 8)), .headerTooLong(bytes: .max, limit: 8 << 20))
        XCTAssertEqual(try fault(Data(repeating: 0xff, count: 100)), .headerTooLong(bytes: .max, limit: 8 << 20))
        XCTAssertEqual(
            try fault(Data([0, 0, 0, 0, 0, 0, 0, 0x80]) + "{}".utf8), .headerTooLong(bytes: 1 << 63, limit: 8 << 20))
        XCTAssertEqual(
            try fault(Data([3, 0, 0, 0, 0, 0, 0, 0]) + "{}".utf8), .headerBeyondFile(headerBytes: 3, fileBytes: 10))
        XCTAssertEqual(
            try fault(file(repeatElement(0x20, count: (8 << 20) + 8))),
            .headerTooLong(bytes: (8 << 20) + 8, limit: 8 << 20))
    }

    func testHeadersThatAreNoObject() throws {
        for header in ["[]", " {}", "\"a\"", "\0\0", "null"] {
            XCTAssertEqual(try fault(file(header)), .headerNotAnObject, header)
        }
        XCTAssertEqual(try fault(file("{}x")), .textAfterHeader(offset: 2))
        XCTAssertEqual(try fault(file("{}\0\0")), .textAfterHeader(offset: 2))
        XCTAssertEqual(try fault(file("{}{}")), .textAfterHeader(offset: 2))
        XCTAssertNil(try fault(file("{}      ")))
        for header in [
            "{", "{\"a\"", "{\"a\":", "{\"a\":1}", "{\"a\":[]}", "{\(tensor())", "{\(tensor()),}", "{,}",
            "{\"a\":{\"dtype\":1}}",
            "{\"a\":{\"shape\":1}}", "{\"a\":{\"shape\":[\"1\"]}}", "{\"a\":{\"shape\":[1,]}}",
            "{\"a\":{\"data_offsets\":[0]}}",
            "{\"a\":{\"data_offsets\":[0,4,8]}}", "{\"a\":{\"shape\":null}}", "{\"__metadata__\":1}",
            "{\"__metadata__\":{\"a\":1}}",
            "{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", "{\"__metadata__\":{\"a\":null}}",
            "{'a':1}",
        ] {
            guard case .malformedHeader = try fault(file(header, dataBytes: 4)) else { return XCTFail(header) }
        }
    }

    func testNumbers() throws {
        for shape in [
            "[-1]", "[1.0]", "[1e2]", "[01]", "[9223372036854775808]", "[99999999999999999999999999]", "[0x1]", "[+1]",
            "[NaN]", "[true]"] {
            guard case .malformedHeader = try fault(file("{\(tensor(shape: shape))}", dataBytes: 4)) else {
                return XCTFail(shape)
            }
        }
        for offsets in ["[-4,0]", "[0,4.0]", "[0,18446744073709551616]", "[0,-1]", "[0]", "[]"] {
            guard case .malformedHeader = try fault(file("{\(tensor(offsets: offsets))}", dataBytes: 4)) else {
                return XCTFail(offsets)
            }
        }
    }

    func testSizes() throws {
        for shape in [
            "[9223372036854775807]", "[4611686018427387904,2]", "[4294967296,4294967296]", "[3037000500,3037000500,3]",
            "[0,9223372036854775807,9223372036854775807]", "[9223372036854775807,2,0]",
        ] {
            XCTAssertEqual(
                try fault(file("{\(tensor(shape: shape, offsets: "[0,0]"))}")), .sizeOverflow(tensor: "a"), shape)
        }
        XCTAssertEqual(
            try fault(file("{\(tensor(shape: "[2]"))}", dataBytes: 4)),
            .sizeMismatch(tensor: "a", expected: 8, found: 4))
        XCTAssertEqual(
            try fault(file("{\(tensor(offsets: "[4,0]"))}", dataBytes: 4)),
            .sizeMismatch(tensor: "a", expected: 4, found: -4))
        XCTAssertEqual(
            try fault(file("{\(tensor(offsets: "[9223372036854775807,0]"))}", dataBytes: 4)),
            .sizeMismatch(tensor: "a", expected: 4, found: -Int.max))
        XCTAssertEqual(
            try fault(file("{\(tensor())}", dataBytes: 3)), .offsetsBeyondData(tensor: "a", end: 4, dataBytes: 3))
        XCTAssertEqual(try fault(file("{\(tensor())}", dataBytes: 5)), .trailingBytes(1))
        XCTAssertEqual(try fault(file("{}", dataBytes: 1)), .trailingBytes(1))
        let dimensions = "[" + repeatElement("1", count: 65).joined(separator: ",") + "]"
        XCTAssertEqual(
            try fault(file("{\(tensor(shape: dimensions))}", dataBytes: 4)), .tooManyDimensions(tensor: "a", limit: 64))
    }

    func testLayout() throws {
        XCTAssertEqual(
            try fault(file("{\(tensor()),\(tensor("b", offsets: "[0,4]"))}", dataBytes: 4)), .overlap(tensor: "b"))
        XCTAssertEqual(
            try fault(file("{\(tensor("b", shape: "[2]", offsets: "[2,10]")),\(tensor())}", dataBytes: 10)),
            .overlap(tensor: "b"))
        XCTAssertEqual(
            try fault(file("{\(tensor()),\(tensor("b", offsets: "[8,12]"))}", dataBytes: 12)), .hole(tensor: "b"))
        XCTAssertEqual(try fault(file("{\(tensor(offsets: "[4,8]"))}", dataBytes: 8)), .hole(tensor: "a"))
        // Header order is free, and a tensor without elements may stand at any boundary.
        XCTAssertNil(try fault(file(
            "{\(tensor("b", offsets: "[4,8]")),\(tensor("e", shape: "[0]", offsets: "[4,4]")),\(tensor())}",
            dataBytes: 8)))
        XCTAssertEqual(
            try fault(file("{\(tensor()),\(tensor("e", shape: "[0]", offsets: "[2,2]"))}", dataBytes: 4)),
            .overlap(tensor: "e"))
    }

    func testNames() throws {
        XCTAssertEqual(try fault(file("{\(tensor()),\(tensor(offsets: "[4,8]"))}", dataBytes: 8)), .duplicateName("a"))
        XCTAssertEqual(
            try fault(file("{\(tensor()),\(tensor(#"\u0061"#, offsets: "[4,8]"))}", dataBytes: 8)), .duplicateName("a"))
        XCTAssertEqual(try fault(file(#"{"__metadata__":{},"__metadata__":{}}"#)), .duplicateName("__metadata__"))
        XCTAssertEqual(try fault(file(#"{"__metadata__":{"a":"1","a":"2"}}"#)), .duplicateName("__metadata__.a"))
        XCTAssertEqual(try fault(file("{\(tensor(#"a\u0000b"#))}", dataBytes: 4)), .invalidName(#"a\u{0}b"#))
        XCTAssertEqual(try fault(file("{\(tensor(""))}", dataBytes: 4)), .invalidName(""))
        for bytes in [
            [0xff], [0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xE2, 0x82], [0x80], [0x00],
            [0x0a]] as [[UInt8]] {
            let header = Array("{\"a".utf8) + bytes + Array(tensor().utf8.dropFirst(2)) + [UInt8(ascii: "}")]
            guard case .malformedHeader = try fault(file(header, dataBytes: 4)) else { return XCTFail("\(bytes)") }
        }
        for name in [#"\ud800"#, #"\udc00"#, #"\ud800\u0041"#, #"\x41"#, #"\u12"#, #"a\"#] {
            guard case .malformedHeader = try fault(file("{\(tensor(name))}", dataBytes: 4)) else {
                return XCTFail(name)
            }
        }
        // Composed and decomposed é are two names: bytes decide.
        XCTAssertNil(try fault(file("{\(tensor("\u{e9}")),\(tensor("e\u{301}", offsets: "[4,8]"))}", dataBytes: 8)))
    }

    func testFields() throws {
        XCTAssertEqual(try fault(file("{\"a\":{}}")), .missingField(tensor: "a", field: "dtype"))
        XCTAssertEqual(try fault(file(#"{"a":{"dtype":"F32"}}"#)), .missingField(tensor: "a", field: "shape"))
        XCTAssertEqual(
            try fault(file(#"{"a":{"dtype":"F32","shape":[]}}"#)), .missingField(tensor: "a", field: "data_offsets"))
        XCTAssertEqual(
            try fault(file(#"{"a":{"dtype":"F32","dtype":"F32"}}"#)), .duplicateField(tensor: "a", field: "dtype"))
        XCTAssertEqual(try fault(file(#"{"a":{"shape":[],"shape":[]}}"#)), .duplicateField(tensor: "a", field: "shape"))
        XCTAssertEqual(
            try fault(file(#"{"a":{"data_offsets":[0,4],"data_offsets":[0,4]}}"#)),
            .duplicateField(tensor: "a", field: "data_offsets"))
        XCTAssertEqual(try fault(file(#"{"a":{"strides":[1]}}"#)), .unknownField(tensor: "a", field: "strides"))
        for dtype in ["F33", "f32", "", "F8", "F4_E2M1", "COMPLEX64", String(repeating: "F", count: 1000)] {
            guard case .unknownDType("a", _) = try fault(file("{\(tensor(dtype: dtype))}", dataBytes: 4)) else {
                return XCTFail(dtype)
            }
        }
    }

    func testChecksumEntry() throws {
        for text in ["", "0", "0000000g", "+0000000", "000000000"] {
            XCTAssertEqual(
                try fault(file("{\"__metadata__\":{\"hssl.crc32c\":\"\(text)\"}}")), .malformedChecksum(text))
        }
        XCTAssertEqual(
            try fault(file(#"{"__metadata__":{"hssl.crc32c":"12345678"}}"#)),
            .checksumMismatch(recorded: "12345678", computed: "00000000"))
    }

    func testDeepNesting() throws {
        for nesting in ["[", "{\"a\":", "[[[", "{\"shape\":["] {
            let deep = String(repeating: nesting, count: 1_000_000 / nesting.utf8.count)
            for header in ["{\"a\":" + deep, "{\"__metadata__\":" + deep, "{\"a\":{\"shape\":" + deep] {
                let fault = try fault(file(header))
                switch fault {
                case .malformedHeader, .unknownField: break
                default: XCTFail("\(String(describing: fault))")
                }
            }
        }
    }

    func testLargeHeaders() throws {
        // A million tensors without elements.
        var header = "{"
        for index in 0..<110_000 { header += "\"t\(index)\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}," }
        XCTAssertEqual(try fault(file(header.dropLast() + "}")), .tooManyTensors(limit: 65_536))
        // As many as are allowed, with long names, and the fault at the end.
        header = "{"
        let filler = String(repeating: "n", count: 60)
        for index in 0..<65_536 {
            header += "\"\(filler)\(index)\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[\(index),\(index + 1)]},"
        }
        XCTAssertEqual(try fault(file(header.dropLast() + "}", dataBytes: 65_537)), .trailingBytes(1))
        XCTAssertEqual(
            try fault(file(header.dropLast() + "}", dataBytes: 65_535)),
            .offsetsBeyondData(tensor: filler + "65535", end: 65_536, dataBytes: 65_535))
        // Reversed, and all of the same name but the last byte.
        header = "{"
        for index in (0..<65_000).reversed() {
            header += "\"t\(index)\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[\(index),\(index + 1)]},"
        }
        XCTAssertEqual(
            try fault(file(header + tensor("t0", dtype: "U8", offsets: "[65000,65001]") + "}", dataBytes: 65_001)),
            .duplicateName("t0"))
        // One enormous name, one enormous dtype, one enormous escape-laden string.
        let long = String(repeating: "x", count: 8_000_000)
        XCTAssertEqual(
            try fault(file("{\(tensor(long, shape: "[2]"))}", dataBytes: 4)),
            .sizeMismatch(tensor: String(repeating: "x", count: 80) + "…", expected: 8, found: 4))
        guard case .unknownDType = try fault(file("{\(tensor(dtype: long))}")) else { return XCTFail("dtype") }
        guard case .malformedHeader = try fault(file("{\"" + String(repeating: "\\u0041", count: 1_300_000))) else {
            return XCTFail("escapes")
        }
        // Metadata by the hundred thousand; a shape of millions.
        XCTAssertEqual(
            try fault(file(
                "{\"__metadata__\":{" + (0..<70_000).map { "\"k\($0)\":\"\"" }.joined(separator: ",") + "}}")),
            .tooManyMetadataEntries(limit: 65_536))
        let zeros = String(repeating: "0", count: 50)
        XCTAssertEqual(
            try fault(file(
                "{\"__metadata__\":{" + (0..<65_536).map { "\"\(zeros)\($0 % 65_535)\":\"\(zeros)\"" }.joined(
                    separator: ",") + "}}")),
            .duplicateName("__metadata__.\(zeros)0"))
        XCTAssertEqual(
            try fault(file("{\"__metadata__\":{\"a\":\"\(long)\",\"a\":\"\"}}")), .duplicateName("__metadata__.a"))
        XCTAssertEqual(
            try fault(file(
                "{\(tensor(shape: "[" + repeatElement("1", count: 4_000_000).joined(separator: ",") + "]"))}")),
            .tooManyDimensions(tensor: "a", limit: 64))
        guard case .malformedHeader = try fault(file("{" + String(repeating: " ", count: 8_000_000) + "x")) else {
            return XCTFail("spaces")
        }
    }

    func testUnreadable() throws {
        try withTemporaryFolder { folder in
            for (path, reason) in [
                (folder + "/none", "cannot open: No such file or directory"), (folder, "is a folder, not a file")] {
                XCTAssertThrowsError(try SafetensorsFile(path: path)) {
                    XCTAssertEqual(($0 as? SafetensorsError)?.fault, .unreadable(reason))
                }
            }
        }
    }
}
