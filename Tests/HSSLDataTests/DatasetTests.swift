import Foundation
import XCTest

@testable import HSSLData
@testable import HSSLFormats

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

    /// Standard input that gives its bytes in pieces.
    private func pieces(_ bytes: [UInt8], of size: Int = 7) -> () -> [UInt8] {
        var rest = bytes[...]
        return {
            defer { rest = rest.dropFirst(size) }
            return Array(rest.prefix(size))
        }
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

    private func gzip(_ name: String) throws -> [UInt8] {
        let gzip = Process()
        gzip.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        gzip.arguments = ["gzip", "-9", "-f", folder + "/" + name]
        try gzip.run()
        gzip.waitUntilExit()
        return try [UInt8](Data(contentsOf: URL(fileURLWithPath: folder + "/\(name).gz")))
    }

    func testGzip() throws {
        let elements = (0..<2 * 50 * 50).map { UInt8($0 / 7 % 251) }
        let whole = idx([2, 50, 50], elements)
        try write(whole, to: "raw")
        let packed = try gzip("raw")
        try write(packed, to: "b-images-idx3-ubyte.gz")
        XCTAssertEqual(try Dataset(path: folder + "/b").image(1).pixels[0], elements[2500])
        func inflated(_ bytes: [UInt8], limit: Int = 1 << 20) throws -> [UInt8] {
            try write(bytes, to: "packed")
            let images = try IDXFile(gunzip(ReadableFile(path: folder + "/packed"), limit: limit), path: "x")
            return try images.elements()
        }
        XCTAssertEqual(try inflated(packed), elements)
        XCTAssertEqual(try inflated(packed + [0, 0, 1]), elements)
        XCTAssertEqual(try inflated(packed, limit: whole.count), elements)
        let large = dataError { _ = try inflated(packed, limit: whole.count - 1) }
        XCTAssertEqual(large?.kind, .tooLarge)
        XCTAssertTrue(
            large?.reason.contains("limit of \(whole.count - 1) bytes; gunzip it") ?? false, large?.reason ?? "")
        let small = DecodeLimits(bytes: 4000)
        XCTAssertEqual(dataError { _ = try Dataset(path: folder + "/b", limits: small) }?.kind, .tooLarge)
        for length in stride(from: 2, to: packed.count, by: 3) {
            XCTAssertEqual(
                dataError { _ = try inflated(Array(packed.prefix(length))) }?.kind, .truncated, "length \(length)")
        }
        var flipped = packed
        flipped[packed.count - 6] ^= 1  // CRC
        XCTAssertEqual(dataError { _ = try inflated(flipped) }?.kind, .corrupt)
        // Two members, cut anywhere.
        try write(Array(whole[..<1000]), to: "raw")
        let first = try gzip("raw")
        try write(Array(whole[1000...]), to: "raw")
        XCTAssertEqual(try inflated(first + gzip("raw")), elements)
    }

    /// An IDX file is read image by image: it may be larger than all memory.
    func testPlainIDXStaysInItsFile() throws {
        try write(idx([3, 2, 2], Array(0..<12)), to: "p-images-idx3-ubyte")
        let data = try Dataset(path: folder + "/p", limits: DecodeLimits(bytes: 20))
        try write(idx([3, 2, 2], Array(100..<112)), to: "p-images-idx3-ubyte.new")
        let handle = try XCTUnwrap(FileHandle(forWritingAtPath: folder + "/p-images-idx3-ubyte"))
        try handle.seek(toOffset: 24)
        try handle.write(contentsOf: Data([77]))
        try handle.close()
        XCTAssertEqual(try data.image(2).pixels[0..<3], [77, 77, 77])
        // Cut while it is open: an error of that image.
        XCTAssertEqual(truncate(folder + "/p-images-idx3-ubyte", 22), 0)
        XCTAssertEqual(dataError { _ = try data.image(2) }?.kind, .unreadable)
        XCTAssertNoThrow(try data.image(0))
    }

    func testImageFolderSortsBytewiseAndLabels() throws {
        for name in [
            "b/2.JPG", "b/10.jpeg", "B/x.png", "a/deep/z.Png", "a/a.jpg", "a/notes.txt", "a/.hidden.png",
            "a-b/1.png", "é/1.png", ".git/x.png",
        ] {
            try write([1], to: name)
        }
        let data = try Dataset(path: folder)
        XCTAssertEqual(data.classNames, ["B", "a", "a-b", "b", "é"])
        XCTAssertEqual(
            (0..<data.count).map(data.name),
            ["B/x.png", "a/a.jpg", "a/deep/z.Png", "a-b/1.png", "b/10.jpeg", "b/2.JPG", "é/1.png"].map {
                folder + "/" + $0
            })
        XCTAssertEqual((0..<data.count).map { data.label($0) }, [0, 1, 1, 2, 3, 3, 4])
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
        XCTAssertEqual(try Dataset(path: folder).emptyClasses, [folder + "/void"])
        XCTAssertEqual(try Dataset(path: folder).classNames, ["class"])
        try FileManager.default.createSymbolicLink(atPath: folder + "/class/up", withDestinationPath: "..")
        try FileManager.default.createSymbolicLink(atPath: folder + "/class/self", withDestinationPath: "self")
        let data = try Dataset(path: folder)
        XCTAssertEqual(data.count, 1)
        XCTAssertEqual(Set(data.faults.map(\.path)), [folder + "/class/up", folder + "/class/self"])
        XCTAssertEqual(Set(data.faults.map(\.kind)), [.symbolicLinkLoop])
        try write([1], to: "looped/1.png")
        let list = try InputList(arguments: [folder])
        XCTAssertEqual(list.items.map(\.path).prefix(2), [folder + "/class/1.png", folder + "/looped/1.png"])
        XCTAssertEqual(
            (2..<4).map { index in dataError { _ = try list.image(index) }?.kind },
            [.symbolicLinkLoop, .symbolicLinkLoop])
        try FileManager.default.removeItem(atPath: folder + "/class")
        try FileManager.default.removeItem(atPath: folder + "/looped")
        try FileManager.default.createSymbolicLink(atPath: folder + "/void/up", withDestinationPath: "..")
        XCTAssertEqual(
            dataError { _ = try Dataset(path: folder) }?.kind, .symbolicLinkLoop, "nothing else is there to say")
    }

    /// Images beside folders: nothing is a label, and everything is data.
    func testNestedFoldersWithoutLabels() throws {
        for name in ["1.png", "2.png", "best/3.JPG", "best/deep/4.jpeg"] { try write([1], to: name) }
        for name in [
            "@eaDir/1.png", "__MACOSX/._1.png", "best/#recycle/x.png", "@Recycle/x.png", "$RECYCLE.BIN/x.png",
            "lost+found/x.png", ".thumbs/x.png", "run/report.png", "notes.txt", "clip.MP4", "clip.mp4", "README",
        ] { try write([1], to: name) }
        XCTAssertEqual(mkfifo(folder + "/pipe.png", 0o600), 0)
        try FileManager.default.createSymbolicLink(
            atPath: folder + "/device.png", withDestinationPath: "/dev/zero")
        let data = try Dataset(path: folder, excluding: folder + "/run/")
        XCTAssertEqual(
            (0..<data.count).map(data.name),
            ["1.png", "2.png", "best/3.JPG", "best/deep/4.jpeg"].map { folder + "/" + $0 })
        XCTAssertFalse(data.hasLabels)
        XCTAssertEqual(
            data.summary,
            """
            \(folder): no labels, as images lie beside the folders (--labels folders takes these as classes); 4 images in \
            3 folders (2 .png, 1 .jpeg, 1 .jpg); passed over: 4 files (2 .mp4, 1 without suffix, 1 .txt), \
            6 system folders (1 #recycle, 1 $RECYCLE.BIN, 1 @Recycle, 1 @eaDir, 1 __MACOSX, 1 lost+found), \
            2 that are pipes, devices or sockets, 1 name that begins with a dot, the run's own folder
            """)
        let forced = try Dataset(path: folder, folderLabels: .folders)
        XCTAssertEqual(forced.classNames, ["best", "run"])
        XCTAssertEqual(forced.count, 3)
        XCTAssertTrue(
            forced.summary.contains(
                "labels: 2 class folders; 3 images in 3 folders (1 .jpeg, 1 .jpg, 1 .png); passed over: 2 images "
                + "beside the class folders"
            ), forced.summary)
        // A system folder that is asked for by name is data.
        XCTAssertEqual(try Dataset(path: folder + "/@eaDir").count, 1)
    }

    func testLabelsCanBeForcedAway() throws {
        for name in ["a/1.png", "b/2.png"] { try write([1], to: name) }
        XCTAssertEqual(try Dataset(path: folder).classNames, ["a", "b"])
        let plain = try Dataset(path: folder, folderLabels: FolderLabels.none)
        XCTAssertFalse(plain.hasLabels)
        XCTAssertEqual(plain.count, 2)
        XCTAssertEqual(dataError { _ = try Dataset(path: folder + "/a", folderLabels: .folders) }?.kind, .empty)
    }

    /// Two folders whose names differ by their Unicode form alone are two folders.
    func testNamesAreBytes() throws {
        for name in ["caf\u{e9}/1.png", "cafe\u{301}/2.png"] { try write([1], to: name) }
        XCTAssertEqual(try Dataset(path: folder).count, 2)
        XCTAssertEqual(
            try Dataset(path: folder).classNames.map { Array($0.utf8) },
            [Array("cafe\u{301}".utf8), Array("caf\u{e9}".utf8)])
        let raw: [UInt8] = Array(folder.utf8) + [0x2F, 0x4D, 0xF1, 0x2E, 0x70, 0x6E, 0x67, 0]
        let descriptor = raw.withUnsafeBufferPointer { buffer in
            buffer.withMemoryRebound(to: CChar.self) { open($0.baseAddress!, O_CREAT | O_WRONLY, 0o644) }
        }
        try XCTSkipIf(descriptor < 0, "this file system wants UTF-8")
        close(descriptor)
        let data = try Dataset(path: folder)
        XCTAssertEqual(data.count, 3)
        XCTAssertEqual(dataError { _ = try data.image(0) }?.kind, .truncated, "an empty file, but there")
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
            arguments: ["\(folder)/single.bin", "\(folder)/f", "-", "\(folder)/t", "\(folder)/absent.png", "-"],
            standardInput: pieces(Array(listed.utf8)))
        XCTAssertEqual(
            list.items.map(\.path),
            [
                "single.bin", "f/a/c.jpg", "f/b.png", "f/b.png", "f/a/c.jpg", "f/b.png", "t-images-idx3-ubyte#0",
                "t-images-idx3-ubyte#1", "absent.png",
            ].map { folder + "/" + $0 })
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

    func testListsThatAreNotWhatTheySeem() throws {
        func reason(_ bytes: [UInt8], _ separator: UInt8 = 10) -> String {
            dataError {
                _ = try InputList(arguments: ["-"], separator: separator, standardInput: pieces(bytes))
            }?.reason ?? "accepted"
        }
        let names = "a.png\nb.png\n"
        XCTAssertEqual(
            try InputList(arguments: ["-"], standardInput: pieces([0xEF, 0xBB, 0xBF] + Array(names.utf8)))
                .items.map(\.path),
            ["a.png", "b.png"])
        XCTAssertEqual(
            try InputList(arguments: ["-"], separator: 0, standardInput: pieces([0xEF, 0xBB, 0xBF] + Array("a\0".utf8)))
                .items.map(\.path),
            ["a"])
        let little = names.utf16.flatMap { [UInt8($0 & 255), UInt8($0 >> 8)] },
            big = names.utf16.flatMap { [UInt8($0 >> 8), UInt8($0 & 255)] }
        for bytes in [[0xFF, 0xFE] + little, [0xFE, 0xFF] + big, little, big] {
            XCTAssertTrue(reason(bytes).contains("UTF-16"))
        }
        XCTAssertTrue(reason([0xFF, 0xFE] + little, 0).contains("UTF-16"))
        let wide = names.utf8.flatMap { [$0, 0, 0, 0] as [UInt8] }
        for bytes in [[0xFF, 0xFE, 0, 0] + wide, wide] { XCTAssertTrue(reason(bytes).contains("UTF-32")) }
        XCTAssertTrue(reason(Array("photos/a.png\0photos/b.png\0".utf8)).contains("--null"))
        XCTAssertTrue(reason(Array(names.utf8), 0).contains("newlines"))
        XCTAssertEqual(
            try InputList(arguments: ["-"], standardInput: pieces([0x4D, 0xF1, 0x0A])).items.map(\.path.utf8.count),
            [5])
    }

    func testInputListSeparatedByNUL() throws {
        let list = try InputList(
            arguments: ["-"], separator: 0, standardInput: pieces(Array("a\nb.png\0c.png\0".utf8)))
        XCTAssertEqual(list.items.map(\.path), ["a\nb.png", "c.png"])
    }

    /// Thirty thousand paths: in order, in pieces that end anywhere, in little memory, or refused with the figure.
    func testLongLists() throws {
        let count = 30_000
        let paths = (0..<count).map { "photos/year-\($0 % 7)/image-\($0).jpg" }
        let text = Array(paths.joined(separator: "\n").utf8)
        let list = try InputList(arguments: ["-"], standardInput: pieces(text, of: 9973))
        XCTAssertEqual(list.count, count)
        XCTAssertTrue(zip(list.items, paths).allSatisfy { $0.path == $1 })
        let refused = dataError {
            _ = try InputList(arguments: ["-"], mostBytes: 1 << 19, standardInput: pieces(text, of: 9973))
        }
        XCTAssertEqual(refused?.kind, .tooLarge)
        XCTAssertTrue(refused?.reason.contains("--memory-limit leaves (524288)") ?? false, refused?.reason ?? "")
    }

    func testPathLists() {
        var list = PathList()
        XCTAssertTrue(list.isEmpty)
        let names = (0..<9_000).map { "\($0 * 7919 % 9_000)" + String(repeating: "é", count: $0 % 9) }
            + ["", "\u{10FFF1}x"]
        for name in names { list.append(name) }
        XCTAssertEqual(Array(list), names)
        XCTAssertLessThan(list.memoryBytes, 2 * names.reduce(0) { $0 + $1.utf8.count + 4 } + 1 << 19)
        list.sort()
        XCTAssertEqual(Array(list), names.sorted { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) })
        let sorted = Array(list)
        list.reorder([5, 0, 5])
        XCTAssertEqual(Array(list), [sorted[5], sorted[0], sorted[5]])
    }

    /// Suffixes of all formats are images; what else is in a folder is counted by its own.
    func testSuffixes() throws {
        let taken = [
            "a.jpg", "b.JPEG", "c.jpe", "d.jfif", "e.pjpeg", "f.MPO", "g.png", "h.webp", "i.gif", "j.bmp", "k.tif",
            "l.tiff",
        ]
        for name in taken + ["x.mp4", "y.MP4", "z.heic", "w.txt"] { try write([1], to: name) }
        let list = try InputList(arguments: [folder])
        XCTAssertEqual(list.items.map(\.path), taken.map { "\(folder)/\($0)" })
        let text = list.folders?.text ?? ""
        XCTAssertTrue(text.hasSuffix("passed over: 4 files (2 .mp4, 1 .heic, 1 .txt)"), text)
    }

    func testRepairedImagesAreCountedOnce() throws {
        let fixtures = try Fixtures()
        for name in ["no-end.jpg", "no-end.png", "rgb.png"] { try write(fixtures.bytes(name), to: name) }
        let data = try Dataset(path: folder), list = try InputList(arguments: [folder])
        XCTAssertEqual([data.repairedCount, list.repairedCount], [0, 0])
        for _ in 0..<2 {
            for index in 0..<3 { _ = (try data.image(index), try list.image(index)) }
        }
        XCTAssertEqual([data.repairedCount, list.repairedCount], [2, 2])
    }
}
