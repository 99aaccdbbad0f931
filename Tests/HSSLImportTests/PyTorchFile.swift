import HSSLFormats

@testable import HSSLImport

/// Bytes of a file of `torch.save`, to be damaged.
struct PyTorchFile {
    struct Entry {
        var name: String
        var bytes: [UInt8]
        var method = 0
        var flags = 0x808
        /// What the directory says, where it lies.
        var statedSize: Int?
        var checksum: UInt32?
    }

    var entries: [Entry]
    var statedCount: Int?
    var is64Bit = false

    /// An archive `a` of a pickle and its storages.
    init(pickle: [UInt8], storages: [(key: String, bytes: [UInt8])] = [], byteOrder: String = "little") {
        entries =
            [Entry(name: "a/data.pkl", bytes: pickle), Entry(name: "a/byteorder", bytes: Array(byteOrder.utf8))]
            + storages.map { Entry(name: "a/data/\($0.key)", bytes: $0.bytes) }
            + [Entry(name: "a/version", bytes: Array("3\n".utf8))]
    }

    var bytes: [UInt8] {
        var file: [UInt8] = []
        var directory: [UInt8] = []
        for entry in entries {
            let name = Array(entry.name.utf8)
            let checksum = entry.checksum ?? entry.bytes.withUnsafeBytes { ZipDirectory.checksum($0) }
            let offset = file.count
            let size = entry.statedSize ?? entry.bytes.count
            let local = little(0x0403_4b50, 4) + little(0, 2) + little(entry.flags, 2) + little(entry.method, 2)
            file += local + little(0, 16) + little(name.count, 2) + little(0, 2)
            file += name + entry.bytes
            directory += little(0x0201_4b50, 4) + little(0, 4) + little(entry.flags, 2) + little(entry.method, 2)
            directory += little(0, 4) + little(Int(checksum), 4) + little(size, 4) + little(size, 4)
            directory += little(name.count, 2) + little(0, 12) + little(offset, 4) + name
        }
        let begin = file.count
        let count = statedCount ?? entries.count
        file += directory
        if is64Bit {
            let end = file.count
            file += little(0x0606_4b50, 4) + little(44, 8) + little(45, 4) + little(0, 8) + little(count, 8)
            file += little(count, 8) + little(directory.count, 8) + little(begin, 8)
            file += little(0x0706_4b50, 4) + little(0, 4) + little(end, 8) + little(1, 4)
        }
        file += little(0x0605_4b50, 4) + little(0, 4) + little(count, 2) + little(count, 2)
        return file + little(directory.count, 4) + little(begin, 4) + little(0, 2)
    }
}

func little(_ value: Int, _ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }

/// Opcodes of a pickle.
struct PickleWriter {
    private(set) var bytes: [UInt8] = [0x80, 2]

    mutating func raw(_ more: [UInt8]) { bytes += more }
    mutating func op(_ character: Character) { bytes += Array(String(character).utf8) }
    mutating func text(_ text: String) { bytes += Array("X".utf8) + little(text.utf8.count, 4) + Array(text.utf8) }
    mutating func integer(_ value: Int) { bytes += Array("J".utf8) + little(value, 4) }
    mutating func global(_ module: String, _ name: String) { bytes += Array("c\(module)\n\(name)\n".utf8) }

    mutating func tuple(_ values: [Int]) {
        op("(")
        for value in values { integer(value) }
        op("t")
    }

    /// A tensor of storage `key`.
    mutating func tensor(
        type: String = "FloatStorage", key: String = "0", count: Int, offset: Int = 0, shape: [Int], strides: [Int]
    ) {
        global("torch._utils", "_rebuild_tensor_v2")
        op("(")
        op("(")
        text("storage")
        global("torch", type)
        text(key)
        text("cpu")
        integer(count)
        op("t")
        op("Q")
        integer(offset)
        tuple(shape)
        tuple(strides)
        raw([0x89])
        global("collections", "OrderedDict")
        op(")")
        op("R")
        op("t")
        op("R")
    }
}
