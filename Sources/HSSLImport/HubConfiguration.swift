import HSSLFormats

/// What `config.json` and `preprocessor_config.json` beside a checkpoint say, as transformers and timm write them.
struct HubConfiguration {
    private let model: JSONValue?
    private let processor: JSONValue?
    /// With a slash at its end, or empty.
    private let folder: String

    private static let key = "config.json"
    private static let processorKey = "preprocessor_config.json"
    /// Of an image. What is larger is nonsense, and arithmetic with it could overflow.
    private static let sides = 1...16_384

    /// Reads the files beside `path`, where there are some.
    ///
    /// - Throws: `FileError` for a file that is there and cannot be read, or is no JSON.
    init(beside path: String) throws {
        folder = path.utf8.lastIndex(of: UInt8(ascii: "/")).map { String(path[...$0]) } ?? ""
        model = try Self.read(folder + Self.key)
        processor = try Self.read(folder + Self.processorKey)
    }

    private static func read(_ path: String) throws -> JSONValue? {
        let file: ReadableFile
        do { file = try ReadableFile(path: path) } catch { return nil }
        guard file.size <= 1 << 20 else {
            throw FileError(path: path, reason: "has \(file.size) bytes; at most 1 MB are read")
        }
        let bytes = try readFile(at: path, limit: 1 << 20)
        do { return try JSONValue.parse(bytes: bytes) } catch { throw FileError(path: path, reason: "\(error)") }
    }

    private func fault(_ reason: String, in file: String = key) -> FileError {
        FileError(path: folder + file, reason: reason)
    }

    private func member(_ key: String, of value: JSONValue?) -> JSONValue? {
        try? value?.member(key, in: Self.key)
    }

    // MARK: Licence

    /// Of the weights: as timm's config.json has it, or the model card beside them; empty where neither says.
    var license: String {
        if let stated = member("license", of: member("pretrained_cfg", of: model))?.asString { return stated }
        guard let bytes = try? readFile(at: folder + "README.md", limit: 1 << 20) else { return "" }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
        guard lines.first == "---", let end = lines.dropFirst().firstIndex(of: "---") else { return "" }
        for line in lines[1..<end] where line.hasPrefix("license:") {
            let value = line.dropFirst("license:".count).trimmed(" \"'\r")
            return value.isEmpty || value == "unknown" ? "" : oneLine(value)
        }
        return ""
    }

    // MARK: Model

    var hasModel: Bool { model != nil }
    var isTimm: Bool { member("pretrained_cfg", of: model) != nil || member("architecture", of: model) != nil }
    /// timm's name of the model.
    var timmName: String? { member("architecture", of: model)?.asString }

    /// Of the model, or among the arguments that timm makes it with.
    func integer(_ key: String) throws -> Int? {
        let found = member(key, of: model) ?? member(key, of: member("model_args", of: model))
        guard let value = found, value != .null else { return nil }
        guard let number = value.asInteger else { throw fault("\(key) is not an integer") }
        return number
    }

    func number(_ key: String) throws -> Double? {
        guard let value = member(key, of: model) else { return nil }
        guard let number = value.asNumber else { throw fault("\(key) is not a number") }
        return number
    }

    func text(_ key: String) -> String? { member(key, of: model)?.asString }

    func flag(_ key: String) -> Bool? { if case .bool(let flag)? = member(key, of: model) { flag } else { nil } }

    /// Pixels a side.
    func imageSize() throws -> Int? {
        if let size = member("image_size", of: model) {
            guard let side = Self.square(size) else { throw fault("image_size is not square") }
            return try checked(side, "image_size")
        }
        guard let input = member("input_size", of: member("pretrained_cfg", of: model)), case .array(let sides) = input,
            sides.count == 3
        else { return nil }
        guard let height = sides[1].asInteger, height == sides[2].asInteger else {
            throw fault("input_size is not square")
        }
        return try checked(height, "input_size")
    }

    private func checked(_ side: Int, _ key: String, in file: String = key) throws -> Int {
        guard Self.sides.contains(side) else {
            throw fault("\(key) \(side) is not in \(Self.sides.lowerBound) … \(Self.sides.upperBound)", in: file)
        }
        return side
    }

    /// The side before the middle part `share` of it is cut out.
    private func uncropped(_ side: Int, _ share: Double, in file: String = key) throws -> Int {
        guard share > 0, share <= 1 else { throw fault("crop_pct \(share) is not in 0 … 1", in: file) }
        guard Double(side) / share <= Double(Self.sides.upperBound) else {
            throw fault(
                "crop_pct \(share) of an image is less than \(side) pixels of \(Self.sides.upperBound)", in: file)
        }
        return Int(Double(side) / share)
    }

    private static func square(_ value: JSONValue) -> Int? {
        if let side = value.asInteger { return side }
        if case .array(let sides) = value, sides.count == 2, let side = sides[0].asInteger, side == sides[1].asInteger {
            return side
        }
        return nil
    }

    // MARK: Images

    /// The source's defaults with what the files say instead.
    func preprocessing(_ defaults: ForeignPreprocessing) throws -> ForeignPreprocessing {
        var result = defaults
        if let processor {
            result.file = "preprocessor_config.json"
            try apply(processor, to: &result)
        } else if let timm = member("pretrained_cfg", of: model) {
            result.file = "config.json"
            if let mean = numbers("mean", of: timm) { result.mean = mean }
            if let std = numbers("std", of: timm) { result.std = std }
            if let size = try imageSize() { result.crop = size }
            let share = member("crop_pct", of: timm)?.asNumber ?? 0.875
            result.resize = max(result.crop, try uncropped(result.crop, share))
            if let name = member("interpolation", of: timm)?.asString { result.interpolation = try interpolation(name) }
        }
        return result
    }

    private func apply(_ processor: JSONValue, to result: inout ForeignPreprocessing) throws {
        if let mean = numbers("image_mean", of: processor) { result.mean = mean }
        if let std = numbers("image_std", of: processor) { result.std = std }
        if case .bool(false)? = member("do_normalize", of: processor) {
            (result.mean, result.std) = ([0, 0, 0], [1, 1, 1])
        }
        func side(_ key: String) throws -> Int? {
            guard let value = member(key, of: processor) else { return nil }
            let side = Self.square(value)
                ?? ["shortest_edge", "height"].lazy.compactMap { member($0, of: value)?.asInteger }.first
            return try side.map { try checked($0, key, in: Self.processorKey) }
        }
        let size = try side("size")
        let crop = try side("crop_size")
        let isCropped = member("do_center_crop", of: processor)
        if let share = member("crop_pct", of: processor)?.asNumber, let size, size < 384 {
            // transformers' ConvNeXt: the shorter side becomes size/crop_pct, then the centre is cut out.
            (result.resize, result.crop) = (try uncropped(size, share, in: Self.processorKey), size)
        } else if case .bool(false)? = isCropped {
            if let size { (result.resize, result.crop) = (size, size) }
        } else if let crop {
            (result.resize, result.crop) = (max(size ?? crop, crop), crop)
        } else if let size {
            (result.resize, result.crop) = (size, size)
        }
        if let resample = member("resample", of: processor)?.asInteger {
            switch resample {
            case 2: result.interpolation = .bilinear
            case 3: result.interpolation = .bicubic
            default:
                throw fault(
                    "resample \(resample) is not supported (2: bilinear, 3: bicubic)", in: Self.processorKey)
            }
        }
    }

    private func interpolation(_ name: String) throws -> Preprocessing.Interpolation {
        guard let interpolation = Preprocessing.Interpolation(rawValue: name) else {
            throw fault("interpolation '\(oneLine(name))' is not supported (bicubic, bilinear)")
        }
        return interpolation
    }

    private func numbers(_ key: String, of value: JSONValue?) -> [Double]? {
        guard case .array(let elements)? = member(key, of: value) else { return nil }
        let numbers = elements.compactMap(\.asNumber)
        return numbers.count == 3 && elements.count == 3 ? numbers : nil
    }
}

extension Substring {
    /// Without these characters at both ends.
    fileprivate func trimmed(_ characters: String) -> Substring {
        var result = self.drop { characters.contains($0) }
        while let last = result.last, characters.contains(last) { result.removeLast() }
        return result
    }
}
