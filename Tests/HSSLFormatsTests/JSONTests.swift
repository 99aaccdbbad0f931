import TestSupport
import XCTest

@testable import HSSLFormats

final class JSONTests: XCTestCase {
    func testValues() throws {
        XCTAssertEqual(
            try JSONValue.parse(#" {"a": [1, -2, 0.5, 1e3, true, false, null, "x"], "b": {"c": {}}, "d": []} "#),
            ["a": [1, -2, 0.5, 1000.0, true, false, .null, "x"], "b": ["c": [:]], "d": []])
        XCTAssertEqual(
            try JSONValue.parse(#""\u00e9\ud83d\ude00\n\/\\\"\b\f\r\t\u0000""#), .string("é😀\n/\\\"\u{8}\u{c}\r\t\0"))
    }

    func testNumbers() throws {
        for (text, value) in [
            ("0", .integer(0)), ("-0", .number(-0.0)), ("9223372036854775807", .integer(.max)),
            ("-9223372036854775808", .integer(.min)),
            ("9223372036854775808", .number(0x1p63)), ("1.0", .number(1)), ("5e-324", .number(.leastNonzeroMagnitude)),
            ("1E+2", .number(100)),
            ("0.1", .number(0.1)), ("123456789.123456789", .number(123456789.123456789)),
        ] as [(String, JSONValue)] {
            XCTAssertEqual(try JSONValue.parse(text), value, text)
        }
    }

    func testRefused() {
        for text in [
            "", " ", "{", "[", "[1", "[1,", "[1,]", "{\"a\"", "{\"a\":", "{\"a\":1,", "{\"a\":1,}", "{a:1}", "{1:1}",
            "[1}", "{\"a\":1]", "1 2",
            "[]]", "tru", "nul", "True", "NaN", "Infinity", "-Infinity", "+1", "01", "-", "-a", "1.", ".5", "1e",
            "1e+", "0x10", "1e999", "-1e999",
            "\"", "\"a", "\"\\", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\ud800\"", "\"\\ud800x\"",
            "\"\\ud800\\u0041\"", "\"\\udc00\"",
            "\"\n\"", "\"\t\"", "'a'", "/* */1", "{\"a\":1,\"a\":2}", "{\"a\":1,\"\\u0061\":2}", "\u{FEFF}1", "[,1]",
            "[1,,2]",
        ] {
            XCTAssertThrowsError(try JSONValue.parse(text), text) { XCTAssertTrue($0 is JSONError) }
        }
        // Overlong, surrogate, beyond Unicode, stray continuation, cut short.
        for bytes in [
            [0xC0, 0x80], [0xE0, 0x80, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xF5], [0x80],
            [0xE2, 0x82], [0xFF]] as [[UInt8]] {
            XCTAssertThrowsError(try JSONValue.parse(bytes: [0x22] + bytes + [0x22]), "\(bytes)")
        }
    }

    func testDepthAndSizeAreBounded() throws {
        func nested(_ depth: Int) -> String {
            String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
        }
        XCTAssertNoThrow(try JSONValue.parse(nested(64)))
        XCTAssertThrowsError(try JSONValue.parse(nested(65))) {
            XCTAssertEqual("\($0)", "nested deeper than 64 at byte 64")
        }
        XCTAssertThrowsError(try JSONValue.parse(nested(1_000_000)))
        XCTAssertThrowsError(try JSONValue.parse(String(repeating: "{\"a\":", count: 100_000)))
        XCTAssertThrowsError(try JSONValue.parse("[1, 2, 3]", byteLimit: 8))
    }

    func testLongArraysAreParsedInLinearTime() throws {
        let text = "[" + repeatElement("{\"a\":1}", count: 50_000).joined(separator: ",") + "]"
        let start = processorTime()
        guard case .array(let elements) = try JSONValue.parse(text) else { return XCTFail("not an array") }
        XCTAssertEqual(elements.count, 50_000)
        // Quadratic copying takes minutes.
        if !isInstrumented { XCTAssertLessThan(processorTime() - start, 10) }
    }

    func testWriting() throws {
        let value: JSONValue = [
            "b": [1, 0.1, .number(.nan), .number(.infinity), "a\"\\\n\u{1}é\u{2028}"], "a": ["x": .null, "y": true],
            "c": [:]]
        XCTAssertEqual(value.text(), #"{"b":[1,0.1,null,null,"a\"\\\n\u0001é\u2028"],"a":{"x":null,"y":true},"c":{}}"#)
        XCTAssertEqual(
            value.text(keys: .sorted),
            #"{"a":{"x":null,"y":true},"b":[1,0.1,null,null,"a\"\\\n\u0001é\u2028"],"c":{}}"#)
        XCTAssertEqual((["a": [1], "b": []] as JSONValue).text(indent: 2), "{\n  \"a\": [\n    1\n  ],\n  \"b\": []\n}")
    }

    func testDoublesRoundTrip() throws {
        var generator = SeededGenerator(1)
        for _ in 0..<2000 {
            let value = Double(bitPattern: generator.next())
            guard value.isFinite else { continue }
            XCTAssertEqual(try JSONValue.parse(JSONValue.number(value).text()), .number(value))
        }
    }

    func testAccessors() throws {
        let value = try JSONValue.parse(
            #"{"family": "vit", "depth": 12, "rate": 1, "on": true, "mean": [0.5, 1], "none": null, "names": ["a"]}"#)
        XCTAssertEqual(try value.string("family", in: "c"), "vit")
        XCTAssertEqual(try value.integer("depth", in: "c", range: 1...100), 12)
        XCTAssertEqual(try value.number("rate", in: "c"), 1)
        XCTAssertEqual(try value.bool("on", in: "c"), true)
        XCTAssertEqual(try value.numbers("mean", in: "c"), [0.5, 1])
        XCTAssertEqual(try value.strings("names", in: "c"), ["a"])
        XCTAssertNil(try value.member("none", in: "c"))
        func message(_ body: () throws -> Void) -> String {
            do { try body() } catch { return "\(error)" }
            return ""
        }
        XCTAssertEqual(
            message { _ = try value.string("depth", in: "c") }, "c: 'depth' must be a string, found an integer")
        XCTAssertEqual(
            message { _ = try value.integer("depth", in: "c", range: 1...8) }, "c: 'depth' is 12, expected 1 to 8")
        XCTAssertEqual(message { _ = try value.integer("heads", in: "c") }, "c: 'heads' is missing")
        XCTAssertEqual(
            message { _ = try value.integers("mean", in: "c") },
            "c: 'mean' must be an array of integers, one element is a number")
        XCTAssertEqual(message { _ = try JSONValue.null.string("a", in: "c") }, "c: expected an object, found null")
        XCTAssertEqual(
            message { try value.requireKeys(among: ["family", "depth", "rate", "on", "mean", "none"], in: "c") },
            "c: unknown key 'names'")
    }
}

/// SplitMix64: the same tests on every run.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
