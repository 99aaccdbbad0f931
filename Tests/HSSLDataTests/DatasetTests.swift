import Foundation
import XCTest

@testable import HSSLData

final class DatasetTests: XCTestCase {
    private var folder = ""

    override func setUpWithError() throws {
        folder = NSTemporaryDirectory() + "hssl-data-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    }

    override func tearDown() { try? FileManager.default.removeItem(atPath: folder) }

    private func write(_ bytes: [UInt8], to name: String) throws {
        let path = folder + "/" + name
        try FileManager.default.createDirectory(
            atPath: (path as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
        try Data(bytes).write(to: URL(fileURLWithPath: path))
    }

    private func idx(_ shape: [Int], _ elements: [UInt8]) -> [UInt8] {
        [0, 0, 8, UInt8(shape.count)] + shape.flatMap { n in [24, 16, 8, 0].map { UInt8(n >> $0 & 255) } } + elements
    }

    func testIDXPairByPrefix() throws {
        try write(idx([3, 2, 2], Array(0..<12)), to: "train-images-idx3-ubyte")
        try write(idx([3], [7, 0, 2]), to: "train-labels-idx1-ubyte")
        let data = try Dataset(path: folder + "/train")
        XCTAssertEqual(data.count, 3)
        XCTAssertEqual((0..<3).map { data.label($0) }, [7, 0, 2])
        XCTAssertEqual(data.classNames, (0...7).map(String.init))
        let image = try data.image(1)
        XCTAssertEqual(image.width, 2)
        XCTAssertEqual(image.pixels, [4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7])
        XCTAssertEqual(data.name(1), folder + "/train-images-idx3-ubyte#1")
    }

    func testIDXWithoutLabels() throws {
        try write(idx([1, 1, 2], [9, 8]), to: "t-images-idx3-ubyte")
        let data = try Dataset(path: folder + "/t")
        XCTAssertNil(data.label(0))
        XCTAssertFalse(data.hasLabels)
        XCTAssertEqual(data.classNames, [])
    }

    func testIDXFaultsAreTypedAndNamed() throws {
        let whole = idx([2, 3, 3], [UInt8](repeating: 1, count: 18))
        for length in 0..<whole.count {
            try write(Array(whole.prefix(length)), to: "a-images-idx3-ubyte")
            let found = dataError { _ = try Dataset(path: folder + "/a") }
            XCTAssertEqual(found?.kind, .corrupt, "length \(length)")
            XCTAssertEqual(found?.path, folder + "/a-images-idx3-ubyte")
        }
        try write(whole + [0], to: "a-images-idx3-ubyte")
        XCTAssertEqual(dataError { _ = try Dataset(path: folder + "/a") }?.kind, .corrupt)
        try write(idx([0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF], []), to: "a-images-idx3-ubyte")
        XCTAssertEqual(dataError { _ = try Dataset(path: folder + "/a") }?.kind, .corrupt)
        try write([0, 0, 9, 3] + [UInt8](repeating: 0, count: 12), to: "a-images-idx3-ubyte")
        XCTAssertEqual(dataError { _ = try Dataset(path: folder + "/a") }?.kind, .corrupt)
        try write(idx([0, 3, 3], []), to: "a-images-idx3-ubyte")
        XCTAssertEqual(dataError { _ = try Dataset(path: folder + "/a") }?.kind, .empty)
        try write(whole, to: "a-images-idx3-ubyte")
        try write(idx([3], [0, 0, 0]), to: "a-labels-idx1-ubyte")
        let mismatch = dataError { _ = try Dataset(path: folder + "/a") }
        XCTAssertEqual(mismatch?.kind, .mismatch)
        XCTAssertTrue(mismatch?.description.contains("3 labels for the 2 images") ?? false)
    }

    func testGzip() throws {
        let elements = (0..<2 * 50 * 50).map { UInt8($0 / 7 % 251) }
        let whole = idx([2, 50, 50], elements)
        try write(whole, to: "raw")
        let gzip = Process()
        gzip.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        gzip.arguments = ["gzip", "-9", folder + "/raw"]
        try gzip.run()
        gzip.waitUntilExit()
        let packed = try [UInt8](Data(contentsOf: URL(fileURLWithPath: folder + "/raw.gz")))
        try write(packed, to: "b-images-idx3-ubyte.gz")
        XCTAssertEqual(try Dataset(path: folder + "/b").image(1).pixels[0], elements[2500])
        XCTAssertEqual(try gunzip(packed + packed, name: "two members", limit: 1 << 20), whole + whole)
        XCTAssertEqual(try gunzip(packed, name: "just fits", limit: whole.count), whole)
        XCTAssertEqual(dataError { _ = try gunzip(packed, name: "x", limit: whole.count - 1) }?.kind, .tooLarge)
        for length in stride(from: 2, to: packed.count, by: 3) {
            XCTAssertEqual(
                dataError { _ = try gunzip(Array(packed.prefix(length)), name: "x", limit: 1 << 20) }?.kind, .truncated,
                "length \(length)")
        }
        var flipped = packed
        flipped[packed.count - 6] ^= 1  // CRC
        XCTAssertEqual(dataError { _ = try gunzip(flipped, name: "x", limit: 1 << 20) }?.kind, .corrupt)
    }

    func testImageFolderSortsBytewiseAndLabels() throws {
        for name in [
            "b/2.JPG", "b/10.jpeg", "B/x.png", "a/deep/z.Png", "a/a.jpg", "a/notes.txt", "a/.hidden.png", "stray.jpg",
            "é/1.png", ".git/x.png"] {
            try write([1], to: name)
        }
        let data = try Dataset(path: folder)
        XCTAssertEqual(data.classNames, ["B", "a", "b", "é"])
        XCTAssertEqual(
            (0..<data.count).map(data.name),
            ["B/x.png", "a/a.jpg", "a/deep/z.Png", "b/10.jpeg", "b/2.JPG", "é/1.png"].map { folder + "/" + $0 })
        XCTAssertEqual((0..<data.count).map { data.label($0) }, [0, 1, 1, 2, 2, 3])
        XCTAssertEqual(dataError { _ = try data.image(0) }?.path, folder + "/B/x.png")
    }

    func testFlatFolderHasNoLabels() throws {
        for name in ["2.png", "10.png", "readme.md"] { try write([1], to: name) }
        let data = try Dataset(path: folder + "/")
        XCTAssertEqual((0..<data.count).map(data.name), [folder + "/10.png", folder + "/2.png"])
        XCTAssertNil(data.label(0))
    }

    func testFoldersThatCannotBeUsed() throws {
        XCTAssertEqual(dataError { _ = try Dataset(path: folder) }?.kind, .empty)
        XCTAssertEqual(dataError { _ = try Dataset(path: folder + "/absent") }?.kind, .unreadable)
        try write([1], to: "class/1.png")
        try FileManager.default.createDirectory(atPath: folder + "/void", withIntermediateDirectories: true)
        XCTAssertEqual(dataError { _ = try Dataset(path: folder) }?.path, folder + "/void")
        try FileManager.default.removeItem(atPath: folder + "/void")
        try FileManager.default.createSymbolicLink(atPath: folder + "/class/up", withDestinationPath: "..")
        let loop = dataError { _ = try Dataset(path: folder) }
        XCTAssertEqual(loop?.kind, .symbolicLinkLoop)
        XCTAssertTrue(loop?.path.hasPrefix(folder + "/class/up") ?? false, loop?.description ?? "no error")
        try FileManager.default.removeItem(atPath: folder + "/class/up")
        try FileManager.default.createSymbolicLink(atPath: folder + "/class/self", withDestinationPath: "self")
        XCTAssertEqual(dataError { _ = try Dataset(path: folder) }?.kind, .symbolicLinkLoop)
    }

    func testSymbolicLinksAreFollowed() throws {
        try write([1], to: "real/1.png")
        try write([1], to: "data/c/0.png")
        try FileManager.default.createSymbolicLink(atPath: folder + "/data/d", withDestinationPath: "../real")
        try FileManager.default.createSymbolicLink(atPath: folder + "/data/c/gone.png", withDestinationPath: "nowhere")
        let data = try Dataset(path: folder + "/data")
        XCTAssertEqual(data.classNames, ["c", "d"])
        XCTAssertEqual(data.count, 3)
        XCTAssertEqual(dataError { _ = try data.image(1) }?.kind, .unreadable)
    }

    func testInputListExpandsInOrder() throws {
        for name in ["f/b.png", "f/a/c.jpg", "single.bin"] { try write([1], to: name) }
        try write(idx([2, 1, 1], [3, 200]), to: "t-images-idx3-ubyte")
        let listed = "\(folder)/f/b.png\r\n\n\(folder)/f\n"
        let list = try InputList(
            arguments: ["\(folder)/single.bin", "\(folder)/f", "-", "\(folder)/t", "\(folder)/absent.png", "-"]) {
            Array(listed.utf8)
        }
        XCTAssertEqual(
            list.items.map(\.path),
            [
                "single.bin", "f/a/c.jpg", "f/b.png", "f/b.png", "f/a/c.jpg", "f/b.png", "t-images-idx3-ubyte#0",
                "t-images-idx3-ubyte#1", "absent.png"].map { folder + "/" + $0 })
        XCTAssertEqual(try list.image(7).pixels, [200, 200, 200])
        XCTAssertEqual(dataError { _ = try list.image(8) }?.kind, .unreadable)
        XCTAssertEqual(dataError { _ = try list.image(0) }?.kind, .unknownFormat)
    }

    func testInputListFaultsStayInPlace() throws {
        try FileManager.default.createDirectory(atPath: folder + "/void", withIntermediateDirectories: true)
        try write([0, 0, 8], to: "cut-images-idx3-ubyte")
        let list = try InputList(arguments: ["\(folder)/void", "\(folder)/cut"])
        XCTAssertEqual(list.count, 2)
        XCTAssertEqual(dataError { _ = try list.image(0) }?.kind, .empty)
        XCTAssertEqual(dataError { _ = try list.image(1) }?.kind, .corrupt)
    }

    func testInputListSeparatedByNUL() throws {
        let list = try InputList(arguments: ["-"], separator: 0) { Array("a\nb.png\0c.png\0".utf8) }
        XCTAssertEqual(list.items.map(\.path), ["a\nb.png", "c.png"])
    }
}
