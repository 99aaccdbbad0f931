import HSSLFormats

/// A tensor of a foreign file.
struct ForeignTensor: Sendable {
    let name: String
    let shape: [Int]
    /// As its format names it.
    let type: String
    /// The values as float32, row-major; not verified to be finite.
    let load: @Sendable () throws -> [Float]
}

/// The tensors of one network, or of several side by side, in a foreign file.
struct ForeignCheckpoint: Sendable {
    let path: String
    let tensors: [ForeignTensor]
    /// Names of the members under which they were, outermost first.
    var members: [String] = []
    /// What else the file has.
    var others: [String] = []

    /// Opens safetensors or PyTorch's zip, by content.
    ///
    /// - Throws: errors naming the file.
    static func open(path: String) throws -> ForeignCheckpoint {
        let file = try MappedFile(path: path)
        if file.withBytes({ ZipDirectory.isZip($0) }) {
            return try ForeignCheckpoint(TorchFile(path: path, file))
        }
        if let format = file.withBytes({ refusedFormat($0) }) { throw FileError(path: path, reason: format) }
        let safetensors = try SafetensorsFile(path: path, headerLimit: SafetensorsFile.foreignHeaderLimit)
        let tensors = safetensors.tensors.map { view in
            ForeignTensor(name: view.name, shape: view.shape, type: view.dtype.rawValue) {
                try safetensors.floats(view.name, allowingNonFinite: true)
            }
        }
        return ForeignCheckpoint(path: path, tensors: tensors)
    }

    /// What the file is, if that can be told and is not read.
    private static func refusedFormat(_ bytes: UnsafeRawBufferPointer) -> String? {
        let legacy: [UInt8] = [0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19]
        if bytes.count > 14, bytes[0] == 0x80, bytes[2..<14].elementsEqual(legacy) {
            return "is in PyTorch's format before 1.6, which is not read; save it again in Python: "
                + "torch.save(torch.load(FILE, map_location='cpu'), NEW)"
        }
        if bytes.count > 262, bytes[257..<262].elementsEqual("ustar".utf8) {
            return "is a tar archive (PyTorch's format before 0.4 was one); save it again in Python: "
                + "torch.save(torch.load(FILE, map_location='cpu'), NEW)"
        }
        if bytes.count > 8, bytes[0..<8].elementsEqual([0x89, 0x48, 0x44, 0x46, 0x0d, 0x0a, 0x1a, 0x0a]) {
            return "is HDF5; only safetensors and PyTorch's zip are read"
        }
        if bytes.count > 2, bytes[0] == 0x80, (2...5).contains(bytes[1]) {
            return "is a bare pickle; only safetensors and PyTorch's zip are read"
        }
        // Safetensors begin with the length of a header of JSON.
        if bytes.count >= 9, bytes[8] != UInt8(ascii: "{") {
            return "is neither safetensors nor a zip of torch.save"
        }
        return nil
    }

    private init(path: String, tensors: [ForeignTensor]) { (self.path, self.tensors) = (path, tensors) }

    // MARK: Nested dictionaries

    /// Members that hold networks, the wanted one first: a teacher's features are better than its student's.
    private static let wanted = [
        "teacher", "state_dict_ema", "model_ema", "state_dict", "model", "student", "module", "backbone", "encoder",
        "net", "network",
    ]
    private static let deepest = 5

    private init(_ file: TorchFile) throws {
        let content = file.content
        var (value, members, others) = (content.root, [String](), [String]())
        let depths = Self.depths(content)
        while true {
            guard let named = content.members(value) else {
                throw FileError(path: file.path, reason: "holds no dictionary of tensors")
            }
            let own = named.compactMap { name, value -> (String, TorchTensor)? in
                if case .tensor(let index) = value { (name, content.tensors[index]) } else { nil }
            }
            if !own.isEmpty {
                var seen: Set<String> = []
                for (name, _) in own where !seen.insert(name).inserted {
                    throw FileError(path: file.path, reason: "names tensor '\(oneLine(name))' twice")
                }
                others += named.filter { if case .tensor = $0.value { false } else { true } }.map(\.key)
                path = file.path
                tensors = own.map { name, tensor in
                    ForeignTensor(name: name, shape: tensor.shape, type: tensor.type.name) {
                        try file.floats(tensor, name: name)
                    }
                }
                (self.members, self.others) = (members, others)
                return
            }
            let candidates = named.filter {
                if case .dictionary(let index) = $0.value { depths[index] != nil } else { false }
            }
            let chosen =
                Self.wanted.lazy.compactMap { name in candidates.first { $0.key == name } }.first
                ?? (candidates.count == 1 ? candidates.first : nil)
            guard let chosen, members.count < Self.deepest else {
                let names = candidates.map { "'\(oneLine($0.key))'" }.joined(separator: ", ")
                throw FileError(
                    path: file.path,
                    reason: candidates.isEmpty
                        ? "holds no dictionary of tensors" : "holds several dictionaries of tensors: \(names)")
            }
            others += named.map(\.key).filter { $0 != chosen.key }
            members.append(chosen.key)
            value = chosen.value
        }
    }

    /// Of each dictionary, how many dictionaries down there are tensors; nil: none within `deepest`.
    private static func depths(_ content: PickleContent) -> [Int?] {
        var depths: [Int?] = content.dictionaries.map { members in
            members.contains { if case .tensor = $0.value { true } else { false } } ? 0 : nil
        }
        for depth in 1...deepest {
            for (index, members) in content.dictionaries.enumerated() where depths[index] == nil {
                let reaches = members.contains {
                    if case .dictionary(let inner) = $0.value { depths[inner] == depth - 1 } else { false }
                }
                if reaches { depths[index] = depth }
            }
        }
        return depths
    }
}
