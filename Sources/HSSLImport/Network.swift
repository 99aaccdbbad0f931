import HSSLFormats
import HSSLModels

/// One network of a foreign file under our names.
struct ForeignNetwork {
    /// A tensor under our name: whole, or in parts that follow one another.
    struct Entry {
        var parts: [Int: ForeignTensor]
        let count: Int
    }

    let path: String
    let library: Library
    let prefix: String
    let convention: SourceConvention
    /// Whether its names are those of a DINOv3, which has no learned positions.
    let isRotary: Bool
    private(set) var entries: [String: Entry] = [:]
    /// Left out: names within the network, and of what is beside it.
    private(set) var left: [String] = []
    /// From the foreign name: ours.
    private(set) var renamed: [(from: String, to: String)] = []

    init(_ checkpoint: ForeignCheckpoint, source: String?) throws {
        path = checkpoint.path
        let (library, prefix) = try Self.locate(checkpoint)
        (self.library, self.prefix) = (library, prefix)
        let all = Set(checkpoint.tensors.map(\.name))
        let own = Set(all.filter { $0.hasPrefix(prefix) }.map { String($0.dropFirst(prefix.count)) })
        if let source {
            guard let known = SourceConvention.choices.first(where: { $0.name == source }) else {
                let names = SourceConvention.choices.map(\.name).joined(separator: ", ")
                throw ImportError("--source: unknown source '\(oneLine(source))' (known: \(names))")
            }
            convention = known
        } else {
            convention = SourceConvention.recognised(
                library, own: own, all: all, prefix: prefix, members: checkpoint.members)
        }
        isRotary = own.contains("storage_tokens") || own.contains("embeddings.patch_embeddings.weight")
            || own.contains("reg_token") && own.contains("blocks.0.gamma_1")
        // Official Swin and timm before 0.9 halve a grid at a stage's end, later ones at the next one's beginning.
        let isLateSwin = library.family == .swin && own.contains("layers.0.downsample.norm.weight")
        let isGated = own.contains { $0.contains(".mlp.gate_proj.") }
        for tensor in checkpoint.tensors {
            guard tensor.name.hasPrefix(prefix) else {
                left.append(tensor.name)
                continue
            }
            let name = String(tensor.name.dropFirst(prefix.count))
            var known = library.normalise(name)
            if isLateSwin { known = Library.downsampleAfterStage(known) }
            switch library.map.target(known) {
            case nil:
                throw fault(
                    "unexpected tensor '\(oneLine(tensor.name))': no \(library.name) network that is known has one")
            case .leave?: left.append(tensor.name)
            case .take(let target, var part, var count)?:
                if target.hasSuffix("num_batches_tracked") {
                    left.append(tensor.name)
                    continue
                }
                if known.contains(".mlp.up_proj."), !isGated { (part, count) = (0, 1) }
                var entry = entries[target] ?? Entry(parts: [:], count: count)
                guard entry.count == count, entry.parts.updateValue(tensor, forKey: part) == nil else {
                    throw fault("several tensors are '\(oneLine(target))', the last: '\(oneLine(tensor.name))'")
                }
                entries[target] = entry
                renamed.append((tensor.name, target))
            }
        }
        left += checkpoint.others
    }

    func fault(_ reason: String) -> FileError { FileError(path: path, reason: reason) }

    // MARK: Which network

    private static func locate(_ checkpoint: ForeignCheckpoint) throws -> (Library, prefix: String) {
        let names = Set(checkpoint.tensors.map(\.name))
        var found: [(library: Library, prefix: String)] = []
        for library in Library.all {
            for name in names where name.hasSuffix(library.anchors[0]) {
                let prefix = String(name.dropLast(library.anchors[0].count))
                guard prefix.isEmpty || prefix.hasSuffix("."),
                    library.anchors.allSatisfy({ names.contains(prefix + $0) })
                else { continue }
                found.append((library, prefix))
            }
        }
        // The teacher before its student, a trained encoder before the one that followed it.
        let order = ["teacher", "base_encoder", "encoder_q", "student"]
        func rank(_ prefix: String) -> Int { order.firstIndex { prefix.contains($0) } ?? order.count }
        let best = found.map { rank($0.prefix) }.min() ?? 0
        let chosen = found.filter { rank($0.prefix) == best }
        guard let first = chosen.first else {
            throw FileError(
                path: checkpoint.path,
                reason: "holds no network that is known: names of timm, transformers, torchvision, DINO, iBOT, DINOv2, "
                    + "DINOv3, MAE and MoCo v3 are")
        }
        guard chosen.count == 1 else {
            let names = chosen.map { "'\(oneLine($0.prefix))' (\($0.library.name))" }.sorted().joined(separator: ", ")
            throw FileError(path: checkpoint.path, reason: "holds several networks: \(names); save one of them alone")
        }
        return first
    }

    // MARK: Shapes and values

    func has(_ name: String) -> Bool { entries[name] != nil }

    /// Blocks 0, 1, … of which `name` has a tensor, e.g. `blocks.#.norm1.weight`.
    func count(_ pattern: String) -> Int {
        let parts = pattern.split(separator: "#", maxSplits: 1).map(String.init)
        var count = 0
        while count < 4_096, has("\(parts[0])\(count)\(parts[1])") { count += 1 }
        return count
    }

    /// The shape of a tensor under our name, its parts one under the other.
    func shape(_ name: String) throws -> [Int] {
        guard let entry = entries[name] else { throw fault("tensor '\(name)' is missing") }
        let shapes = entry.parts.values.map(\.shape)
        guard let first = shapes.first, shapes.allSatisfy({ $0.dropFirst().elementsEqual(first.dropFirst()) }) else {
            throw fault("the parts of '\(name)' have shapes that do not fit")
        }
        guard entry.count > 1, let rows = first.first else { return first }
        let sum = shapes.reduce(0) { $0 + ($1.first ?? 0) }
        // A missing bias of keys is as long as the others.
        return [sum + (entry.count - shapes.count) * rows] + first.dropFirst()
    }

    /// The values of a tensor under our name.
    ///
    /// - Parameter shape: what it must have, besides axes of length 1.
    func values(_ name: String, shape expected: [Int]) throws -> [Float] {
        let found = try shape(name)
        guard found.filter({ $0 != 1 }) == expected.filter({ $0 != 1 }) else {
            throw mismatch(name, expected: expected, found: found)
        }
        guard let entry = entries[name] else { throw fault("tensor '\(name)' is missing") }
        var values: [Float] = []
        values.reserveCapacity(found.reduce(1, *))
        for part in 0..<entry.count {
            guard let tensor = entry.parts[part] else {
                values += [Float](repeating: 0, count: found.reduce(1, *) / entry.count)
                continue
            }
            let own = try tensor.load()
            if let index = own.withUnsafeBufferPointer(firstNonFinite) {
                throw fault("tensor '\(oneLine(tensor.name))' holds NaN or infinity at element \(index)")
            }
            values += own
        }
        return values
    }

    func mismatch(_ name: String, expected: [Int], found: [Int]) -> FileError {
        fault("tensor '\(foreignName(name))' has shape \(found), not \(expected), which the architecture asks for")
    }

    /// What the file calls a tensor.
    func foreignName(_ name: String) -> String {
        oneLine(entries[name]?.parts.min { $0.key < $1.key }?.value.name ?? name)
    }
}

/// Why a file cannot be imported as asked, in one line.
package struct ImportError: Error, Equatable, CustomStringConvertible {
    package let description: String
    package init(_ description: String) { self.description = description }
}
