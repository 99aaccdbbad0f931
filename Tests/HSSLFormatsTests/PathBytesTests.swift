import XCTest

@testable import HSSLFormats

final class PathBytesTests: XCTestCase {
    /// What `escaped` promises can be read back.
    private func unescaped(_ text: String) -> [UInt8] {
        var result: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\\"), rest.first == UInt8(ascii: "\\") {
                result.append(byte)
                rest.removeFirst()
            } else if byte == UInt8(ascii: "\\"), rest.first == UInt8(ascii: "x"), rest.count >= 3,
                      let code = UInt8(String(decoding: rest.dropFirst().prefix(2), as: UTF8.self), radix: 16) {
                result.append(code)
                rest = rest.dropFirst(3)
            } else {
                result.append(byte)
            }
        }
        return result
    }

    func testEveryPathIsOneString() {
        var paths: [[UInt8]] = [
            [], Array("plain".utf8), Array("café, \"q\"\n".utf8), [0x4D, 0xF1, 0x6F], [0xF4, 0x8F, 0xBE, 0x80], [0xED,
                0xA0, 0x80],
            [0xC0, 0x80], [0xF4], [0xE2, 0x82], Array("a\\xf1".utf8) + [0xF1],
            Array("\\\\".utf8), Array("\\".utf8) + [0xFF],
            Array("\\\\\\x\\n\\".utf8), [0x5C, 0x5C, 0xFF, 0x5C],
        ]
        var state: UInt64 = 7
        for _ in 0..<2000 {
            paths.append((0..<8).map { _ in
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                return [0x5C, 0x78, 0x61, 0xF4, 0x8F, 0xBE, 0xBF, 0x80, 0xC3, 0xA9, 0xFF, 0x31][Int(state >> 33) % 12]
            })
        }
        for path in paths {
            let string = PathBytes.string(path)
            XCTAssertEqual(PathBytes.bytes(string), path)
            XCTAssertEqual(PathBytes.isEscaped(string),
                String(validating: path, as: UTF8.self) == nil || path.contains(0xF4) && PathBytes.isEscaped(string))
            XCTAssertEqual(unescaped(PathBytes.escaped(string)), path, PathBytes.escaped(string))
            XCTAssertFalse(PathBytes.isEscaped(PathBytes.escaped(string)))
            let given = string.withPath { Array(UnsafeBufferPointer(start: $0,
                count: path.count + 1)).map { UInt8(bitPattern: $0) } }
            XCTAssertEqual(given, path + [0])
        }
        let sorted = paths.sorted { $0.lexicographicallyPrecedes($1) }
        XCTAssertEqual(paths.map(PathBytes.string).sorted(by: PathBytes.precedes).map(PathBytes.bytes), sorted)
    }

    func testTextFilesHoldItReversibly() {
        let name = PathBytes.string([0x4D, 0xF1, 0x2E, 0x70])
        XCTAssertEqual(PathBytes.escaped(name), "M\\xf1.p")
        XCTAssertEqual(PathBytes.readable("\(name): gone"), "M\\xf1.p: gone")
        var json: [UInt8] = []
        json.appendJSON(path: name)
        XCTAssertEqual(String(decoding: json, as: UTF8.self), #""M\\xf1.p","path_hex":"4df12e70""#)
        json = []
        json.appendJSON(path: #"a\x"#)
        XCTAssertEqual(String(decoding: json, as: UTF8.self), #""a\\x""#, "a UTF-8 name is itself")
        XCTAssertEqual(FileError(path: name, reason: "gone").description, "M\\xf1.p: gone")
    }
}
