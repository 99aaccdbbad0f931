import HSSLData
import HSSLFormats

/// Classes of images by their names, as the index of embeddings has them: the labels file beside IDX images, or the
/// folder of each image right below the folder that holds all of them.
public struct ImageLabels: Equatable, Sendable {
    /// In label order, as ``Dataset/classNames``.
    public let classNames: [String]
    /// One for each name.
    public let labels: [Int]

    /// - Parameters:
    ///   - source: what errors name.
    ///   - inflatedBytes: most memory for an IDX file that is compressed.
    /// - Throws: ``EvaluationError`` where names do not tell classes, `DataError` for IDX files that cannot be read.
    public init(names: [String], source: String, inflatedBytes: Int = .max) throws {
        let numbered = names.map(Self.idxPlace)
        if numbered.allSatisfy({ $0 != nil }) {
            (classNames, labels) = try Self.ofIDX(numbered.compactMap { $0 }, source, inflatedBytes)
        } else {
            (classNames, labels) = try Self.ofFolders(names, source)
        }
    }

    /// The file and the number of `FILE-images-idx3-ubyte[.gz]#NUMBER`.
    package static func idxPlace(_ name: String) -> (file: String, number: Int)? {
        guard let mark = name.utf8.lastIndex(of: UInt8(ascii: "#")),
              let number = Int(name[name.utf8.index(after: mark)...]), number >= 0 else { return nil }
        let file = String(name[..<mark])
        guard file.hasSuffix("-images-idx3-ubyte") || file.hasSuffix("-images-idx3-ubyte.gz") else { return nil }
        return (file, number)
    }

    private static func ofIDX(
        _ places: [(file: String, number: Int)], _ source: String, _ inflatedBytes: Int
    ) throws -> ([String], [Int]) {
        var sets: [String: Dataset] = [:]
        var labels: [Int] = []
        for place in places {
            let dataset = try sets[place.file] ?? Dataset(path: place.file, inflatedBytes: inflatedBytes)
            sets[place.file] = dataset
            guard dataset.hasLabels else { throw EvaluationError("\(source): \(place.file) has no labels beside it") }
            guard place.number < dataset.count, let label = dataset.label(place.number) else {
                throw EvaluationError("\(source): \(place.file) has no image \(place.number)")
            }
            labels.append(label)
        }
        return ((0...(labels.max() ?? 0)).map(String.init), labels)
    }

    private static func ofFolders(_ names: [String], _ source: String) throws -> ([String], [Int]) {
        // Name by name and twice: the folders of all names together would be many times their bytes.
        func folders(_ name: String) -> [[UInt8]] {
            name.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: true).dropLast().map { Array($0) }
        }
        var shared = names.first.map(folders) ?? []
        for name in names { shared = Array(zip(shared, folders(name)).prefix { $0 == $1 }.map(\.0)) }
        var placeOf: [[UInt8]: Int] = [:]
        let places = try names.map { name in
            let own = folders(name)
            guard own.count > shared.count else {
                throw EvaluationError(
                    "\(source): no class of '\(oneLine(name))': the images must lie in class folders of one folder")
            }
            if let place = placeOf[own[shared.count]] { return place }
            placeOf[own[shared.count]] = placeOf.count
            return placeOf.count - 1
        }
        let classes = placeOf.sorted { $0.key.lexicographicallyPrecedes($1.key) }
        var labelOf = [Int](repeating: 0, count: classes.count)
        for (label, entry) in classes.enumerated() { labelOf[entry.value] = label }
        return (classes.map { String(decoding: $0.key, as: UTF8.self) }, places.map { labelOf[$0] })
    }
}
