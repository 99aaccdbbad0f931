import HSSLData
import HSSLFormats

/// Classes of images by their names, as the index of embeddings has them: the labels file beside IDX images, or the
/// folder of each image right below the folder that holds all of them.
public struct ImageLabels: Equatable, Sendable {
    /// In label order, as ``Dataset/classNames``.
    public let classNames: [String]
    /// One for each name.
    public let labels: [Int]

    /// - Parameter source: what errors name.
    /// - Throws: ``EvaluationError`` where names do not tell classes, `DataError` for IDX files that cannot be read.
    public init(names: [String], source: String) throws {
        let numbered = names.map(Self.idxPlace)
        if numbered.allSatisfy({ $0 != nil }) {
            (classNames, labels) = try Self.ofIDX(numbered.compactMap { $0 }, source)
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
        _ places: [(file: String, number: Int)], _ source: String
    ) throws -> ([String], [Int]) {
        var sets: [String: Dataset] = [:]
        var labels: [Int] = []
        for place in places {
            let dataset = try sets[place.file] ?? Dataset(path: place.file)
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
        let slash = UInt8(ascii: "/")
        let folders = names.map { Array($0.utf8.split(separator: slash, omittingEmptySubsequences: true).dropLast()) }
            .map { $0.map { Array($0) } }
        var shared = folders.first ?? []
        for folder in folders { shared = Array(zip(shared, folder).prefix { $0 == $1 }.map(\.0)) }
        var found = Set<[UInt8]>()
        for (name, folder) in zip(names, folders) {
            guard folder.count > shared.count else {
                throw EvaluationError("\(source): no class of '\(oneLine(name))': the images must lie in class folders of one folder")
            }
            found.insert(folder[shared.count])
        }
        let classes = found.sorted { $0.lexicographicallyPrecedes($1) }
        let labelOf = Dictionary(uniqueKeysWithValues: zip(classes, 0...))
        return (classes.map { String(decoding: $0, as: UTF8.self) }, folders.map { labelOf[$0[shared.count]] ?? 0 })
    }
}
