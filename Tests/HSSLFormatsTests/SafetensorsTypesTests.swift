import Foundation
import XCTest

@testable import HSSLFormats

/// Every valid safetensors file is read, and what is none is named.
final class SafetensorsTypesTests: XCTestCase {
    private func open(_ header: String, _ data: [UInt8]) throws -> SafetensorsFile {
        try withTemporaryFolder { folder in
            let length = withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { Data($0) }
            let path = folder + "/a.safetensors"
            try (length + Data(header.utf8) + Data(data)).write(to: URL(fileURLWithPath: path))
            return try SafetensorsFile(path: path)
        }
    }

    /// Names and bits as safetensors 0.8.0 reads them (its list of variants, and the sizes it accepts).
    private let bits = [
        "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
        "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
    ]

    func testEveryTypeIsRead() throws {
        XCTAssertEqual(Set(SafetensorsDType.allCases.map(\.rawValue)), Set(bits.keys))
        for (name, bits) in bits {
            // 2 · 4 elements: whole bytes for each.
            let bytes = bits
            let file = try open(
                #"{"t":{"dtype":"\#(name)","shape":[2,4],"data_offsets":[0,\#(bytes)]}}"#,
                [UInt8](repeating: 1, count: bytes))
            let tensor = try file.tensor("t")
            XCTAssertEqual(tensor.dtype.rawValue, name)
            XCTAssertEqual(tensor.shape, [2, 4])
            XCTAssertEqual(tensor.elementCount, 8)
            XCTAssertEqual(tensor.bytes.count, bytes)
            XCTAssertThrowsError(
                try open(
                    #"{"t":{"dtype":"\#(name)","shape":[2,4],"data_offsets":[0,\#(bytes + 1)]}}"#,
                    [UInt8](repeating: 1, count: bytes + 1)), name)
        }
    }

    func testPartsOfBytesAndNullMetadata() throws {
        for (dtype, shape, bytes) in [("F4", "[3]", 2), ("F6_E2M3", "[5]", 4), ("F4", "[1]", 0)] {
            XCTAssertThrowsError(
                try open(
                    #"{"t":{"dtype":"\#(dtype)","shape":\#(shape),"data_offsets":[0,\#(bytes)]}}"#,
                    [UInt8](repeating: 0, count: bytes))
            ) {
                XCTAssertEqual(($0 as? SafetensorsError)?.fault, .partialByte(tensor: "t"))
            }
        }
        let huge = #"{"t":{"dtype":"F4","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#
        XCTAssertThrowsError(try open(huge, [])) {
            XCTAssertEqual(($0 as? SafetensorsError)?.fault, .sizeOverflow(tensor: "t"))
        }
        let null = #"{"__metadata__": null,"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#
        let file = try open(null, [0, 0, 0, 0])
        XCTAssertEqual(file.metadata, [:])
        XCTAssertEqual(file.names, ["t"])
        for wrong in ["nul", "nulll", "true", "0", "[]"] {
            XCTAssertThrowsError(try open(#"{"__metadata__":\#(wrong)}"#, []), wrong)
        }
    }

    /// The beginnings of files as their programs write them (torch 2.13, onnx 1.22, numpy 2.4, llama.cpp).
    func testForeignFilesAreNamed() throws {
        func zip(_ names: String...) -> [UInt8] {
            names.flatMap { name -> [UInt8] in
                [0x50, 0x4B, 3, 4, 0, 0, 8, 8] + [UInt8](repeating: 0, count: 18) + [UInt8(name.utf8.count), 0, 0, 0]
                    + Array(name.utf8)
            }
        }
        let cases: [([UInt8], String)] = [
            (zip("archive/data.pkl", "archive/byteorder"), "a PyTorch checkpoint (zip): hssl import makes a model"),
            (zip("net/code/__torch__.py", "net/data.pkl"), "a TorchScript archive (zip)"),
            (zip("arr_0.npy"), "a NumPy archive (.npz)"), (zip("readme.txt"), "a zip archive"),
            ([0x80, 2, 0x8A, 0x0A, 0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20], "a PyTorch checkpoint of before 1.6 (pickle)"),
            ([0x80, 4, 0x95, 0x11, 0, 0, 0, 0, 0, 0, 0, 0x7D], "a Python pickle, which runs code"),
            ([0x08, 0x0A, 0x12, 0x07] + Array("pytorch".utf8) + [0x3A, 0x90], "an ONNX model"),
            (Array("GGUF".utf8) + [3, 0, 0, 0, 0, 0, 0, 0], "a GGUF file"),
            ([0x89] + Array("HDF\r\n".utf8) + [0x1A, 0x0A, 0], "an HDF5 file"),
            ([0x93] + Array("NUMPY".utf8) + [1, 0, 0x76, 0], "a NumPy array (.npy)"),
            ([0x1C, 0, 0, 0] + Array("TFL3".utf8) + [0, 0], "a TensorFlow Lite model"),
        ]
        try withTemporaryFolder { folder in
            for (bytes, name) in cases {
                for length in [bytes.count, 9000] {
                    let path = folder + "/foreign"
                    let data = Data(bytes + [UInt8](repeating: 7, count: length - bytes.count))
                    try data.write(to: URL(fileURLWithPath: path))
                    XCTAssertThrowsError(try SafetensorsFile(path: path), name) {
                        XCTAssertTrue("\($0)".contains("foreign: not a safetensors file but \(name)"), "\($0)")
                        XCTAssertFalse("\($0)".contains("\n"))
                    }
                }
            }
            // A truncated safetensors file stays one, whatever the length of its header begins with.
            for length in [0x1203_08, 0x0480] as [UInt64] {
                let bytes = withUnsafeBytes(of: length.littleEndian) { Array($0) } + Array("{\"a\"".utf8)
                XCTAssertNil(foreignFormat(start: bytes), "\(length)")
            }
        }
    }
}
