/// A colour of 8 bits a channel.
public struct RGBColor: Equatable, Sendable, CustomStringConvertible {
    /// Channels, 0 … 255.
    public let red: UInt8, green: UInt8, blue: UInt8

    /// Red, green and blue 0.
    public static let black = RGBColor(red: 0, green: 0, blue: 0)
    /// Red, green and blue 255.
    public static let white = RGBColor(red: 255, green: 255, blue: 255)

    /// A colour of three channels, 0 … 255 each.
    public init(red: UInt8, green: UInt8, blue: UInt8) { (self.red, self.green, self.blue) = (red, green, blue) }

    /// `black`, `white`, or six hexadecimal digits, RRGGBB, with or without `#` before them; nil for other text.
    public init?(_ text: String) {
        switch text.lowercased() {
        case "black": self = .black
        case "white": self = .white
        case let text:
            let digits = text.hasPrefix("#") ? text.dropFirst() : text[...]
            guard digits.utf8.count == 6, digits.allSatisfy(\.isHexDigit), let value = UInt32(digits, radix: 16) else {
                return nil
            }
            self.init(
                red: UInt8(truncatingIfNeeded: value >> 16), green: UInt8(truncatingIfNeeded: value >> 8),
                blue: UInt8(truncatingIfNeeded: value))
        }
    }

    /// `black`, `white` or six hexadecimal digits RRGGBB in lower case: text that `init(_:)` takes.
    public var description: String {
        switch self {
        case .black: "black"
        case .white: "white"
        default: channels.map { String($0 + 0x100, radix: 16).dropFirst() }.joined()
        }
    }

    /// Red, green, blue: 0 … 255.
    package var channels: [Int] { [Int(red), Int(green), Int(blue)] }

    /// Nil unless these are three integers from 0 to 255.
    package init?(channels: [Int]) {
        let bytes = channels.compactMap { UInt8(exactly: $0) }
        guard bytes.count == 3, channels.count == 3 else { return nil }
        self.init(red: bytes[0], green: bytes[1], blue: bytes[2])
    }
}
